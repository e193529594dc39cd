/** Completion in real shells: bash and fish are asked what they would offer; zsh with stand-ins for its own helpers. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { builtIn } from '../../src/settings/load.ts';
import { commands } from '../../src/cli/flags.ts';
import { completion, shells, type Shell } from '../../src/cli/completion.ts';
import { describeLive } from './privileges.ts';

const backends = Object.keys(builtIn).sort();

describeLive('completion', { programs: ['bash', 'zsh', 'fish'] }, () => {
  let folder: string;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'cfsync-completion-'));
    for (const shell of shells) writeFileSync(join(folder, shell), completion(shell, backends));
    writeFileSync(join(folder, 'plan one.json'), '');
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  /** What the shell offers for the last word. */
  const ask: Readonly<Record<Shell, (words: readonly string[]) => string>> = {
    bash: (words) =>
      `source ./bash; COMP_WORDS=(${words.map((word) => `'${word}'`).join(' ')}); COMP_CWORD=${words.length - 1}; _cfsync; printf '%s\\n' "\${COMPREPLY[@]}"`,
    fish: (words) => `source ./fish; complete -C '${words.join(' ')}'`,
    zsh: (words) =>
      `compadd() { print -l -- \${(M)\${@[2,-1]}:#\${words[CURRENT]}*} }
       compdef() { }
       _describe() { print -l -- \${(M)\${(@)\${(P)2}%%:*}:#\${words[CURRENT]}*} }
       _files() { print -l -- \${words[CURRENT]}*(N) }
       source ./zsh
       words=(${words.map((word) => `'${word}'`).join(' ')}); CURRENT=${words.length}; _cfsync`,
  };

  function offered(shell: Shell, ...words: readonly string[]): string[] {
    const script = ask[shell](words);
    const options = shell === 'zsh' ? ['-f', '-c'] : shell === 'bash' ? ['--norc', '-c'] : ['-c'];
    const env = { PATH: process.env.PATH, HOME: folder };
    const text = execFileSync(shell, [...options, script], { cwd: folder, encoding: 'utf8', env });
    return text
      .split('\n')
      .map((line) => line.split('\t')[0]!)
      .filter((line) => line !== '')
      .sort();
  }

  describe.each(shells)('%s', (shell) => {
    test('commands, the words of some, and options', () => {
      expect(offered(shell, 'cfsync', 'co')).toEqual([
        'completion',
        'config',
        'confirm',
        'contains',
      ]);
      expect(offered(shell, 'cfsync', '')).toEqual(Object.keys(commands).sort());
      expect(offered(shell, 'cfsync', 'config', 'c')).toEqual(['check']);
      expect(offered(shell, 'cfsync', 'apply', '--all')).toContain('--all-or-nothing');
      expect(offered(shell, 'cfsync', 'verify', '--mo')).toEqual([]);
    });

    test('backends, choices and files after an option', () => {
      expect(offered(shell, 'cfsync', 'apply', '-b', '')).toEqual(backends);
      expect(offered(shell, 'cfsync', 'apply', '--backend', 'ng')).toEqual([
        'nginx',
        'nginx-ingress',
      ]);
      expect(offered(shell, 'cfsync', 'apply', '--mode', '')).toEqual(['allow', 'lockdown']);
      expect(offered(shell, 'cfsync', 'apply', '--plan', 'plan')).toEqual(['plan one.json']);
    });
  });
});
