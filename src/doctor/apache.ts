/** Looks at Apache: does it run, and what does its configuration say. */
import { BackendError, CfsyncError, exit } from '../errors.ts';
import type { Directive } from '../../renderers/nginx/configuration.ts';
import type { Command, Outcome } from '../renderer.ts';
import { firstLines } from '../text.ts';
import { onceFor, type DoctorHost } from './check.ts';
import { askSealed } from './sealed.ts';
import { pidsOf, unlessMissing } from '../host/programs.ts';

export interface Apache {
  readonly running: boolean;
  /** What Apache says of its configuration when it refuses it; else null. */
  readonly refused: readonly string[] | null;
  /** As they count: through includes, and without what stands in an <IfModule> or <IfDefine> that does not apply. */
  readonly directives: readonly Directive[];
}

/** How Debian, and how Red Hat, asks Apache for its configuration; apachectl of Red Hat 9 takes no -D. */
const asks: readonly Command['argv'][] = [
  ask('apache2ctl', '/usr/lib/apache2/modules/mod_info.so'),
  ask('httpd', 'modules/mod_info.so'),
];

/** mod_info prints the configuration as it was read; it is loaded for that alone, and nothing is served with it. */
function ask(program: string, module: string): Command['argv'] {
  return [program, '-t', '-D', 'DUMP_CONFIG', '-c', `LoadModule info_module ${module}`];
}

/**
 * Undefined where there is no Apache.
 * @throws CfsyncError when there is one that cannot be asked.
 */
export const lookAtApache = onceFor(look);

async function look(host: DoctorHost): Promise<Apache | undefined> {
  const running = (await pidsOf(host, ['apache2', 'httpd'])).length > 0;
  const outcome = await first(host, running);
  if (outcome === undefined) {
    if (!running) return undefined;
    throw new CfsyncError(
      exit.failed,
      'Apache runs, and is no program of this host (in a container?); its configuration cannot be read here',
    );
  }
  if (outcome.code === 0) return { running, refused: null, directives: parse(outcome.stdout) };
  if (outcome.stderr.includes('(13)Permission denied'))
    throw new BackendError('no permission', 'the configuration of Apache can be read by root only');
  if (outcome.stderr.includes('mod_info.so'))
    throw new CfsyncError(
      exit.failed,
      'Apache has no mod_info, which prints its configuration; install it (Debian has it in apache2-bin)',
    );
  return { running, refused: firstLines(outcome.stderr), directives: [] };
}

async function first(host: DoctorHost, running: boolean): Promise<Outcome | undefined> {
  for (const argv of asks) {
    const sealed = running ? undefined : await askSealed(host, argv);
    // As a shell says that there is no such program; already `apache2ctl -v` would make its folders.
    if (sealed?.code === 127) continue;
    const outcome = sealed ?? (await unlessMissing(host, argv));
    if (outcome !== undefined) return outcome;
  }
  return undefined;
}

/** What mod_info prints: the file, the line, then the directive that stands there. */
function parse(text: string): readonly Directive[] {
  const directives: Directive[] = [];
  let [file, line, blocks] = ['', '', [] as readonly string[]];
  let count = 0;
  for (const raw of text.split('\n')) {
    const [, path] = /^# In file: (.+)$/.exec(raw) ?? [];
    const [, at] = /^ *# *(\d+):$/.exec(raw) ?? [];
    const words = wordsOf(raw.trim());
    if (path !== undefined) file = path;
    else if (at !== undefined) line = at;
    else if (words[0]?.startsWith('</') === true) blocks = blocks.slice(0, -1);
    else if (words.length > 0) {
      const section = words[0]!.startsWith('<');
      const clean = section
        ? [words[0]!.slice(1), ...words.slice(1)].map((word, i, all) =>
            i === all.length - 1 ? word.replace(/>$/, '') : word,
          )
        : words;
      directives.push({ words: clean, at: `${file}:${line}`, blocks });
      if (section)
        blocks = [...blocks, `${clean[0]}#${++count} ${clean.slice(1).join(' ')}`.trimEnd()];
    }
  }
  return directives;
}

export function wordsOf(line: string): readonly string[] {
  return (line.match(/"(?:\\.|[^"\\])*"|\S+/g) ?? []).map((word) =>
    /^".*"$/s.test(word) ? word.slice(1, -1) : word,
  );
}
