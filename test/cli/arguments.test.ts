import { describe, expect, it } from 'vitest';
import { parseArguments } from '../../src/cli/arguments.ts';
import { exit } from '../../src/errors.ts';
import { commands, flags, flagSpec } from '../../src/cli/flags.ts';
import { help } from '../../src/cli/help.ts';
import { parsePorts } from '../../src/plugin/ports.ts';

const parse = (line: string) => parseArguments(line.split(' '));

describe('parseArguments', () => {
  it('answers only what was given, under the long names', () => {
    expect(parse('apply -b nftables --backend=ufw,csf --ports 80,443 --dry-run -v')).toEqual({
      command: 'apply',
      words: [],
      values: {
        backend: ['nftables', 'ufw', 'csf'],
        ports: '80,443',
        'dry-run': true,
        verbose: true,
      },
    });
  });

  it('takes options before the command', () => {
    expect(parse('--state-dir /x show').values).toEqual({ 'state-dir': '/x' });
  });

  it('leaves words as they are', () => {
    expect(parse('contains 010.0.0.1 1e3 ::1').words).toEqual(['010.0.0.1', '1e3', '::1']);
  });

  it.each([
    ['aply', 'unknown command aply (did you mean apply?)'],
    ['apply --bakend nftables', 'unknown option --bakend (did you mean --backend?)'],
    ['apply --backend.x 1', 'unknown option --backend.x'],
    ['apply --dryRun', 'unknown option --dryRun'],
    ['apply --no-dry-run', 'unknown option --no-dry-run'],
    ['apply -x', 'unknown option -x'],
    ['fetch --ports 80', 'fetch takes no --ports'],
    ['apply extra', 'apply takes no extra'],
    ['contains', 'contains needs IP...'],
    ['apply --ports', 'a value is missing after --ports'],
    ['apply --ports --dry-run', 'a value is missing after --ports'],
    ['apply --ports=', '--ports needs a value'],
    ['apply --ports 80 --ports 443', '--ports was given more than once'],
    ['apply --lock-timeout abc', '--lock-timeout: abc is not a whole number'],
    ['apply --lock-timeout 1e3', '--lock-timeout: 1e3 is not a whole number'],
    ['apply --lock-timeout 0x10', '--lock-timeout: 0x10 is not a whole number'],
    ['apply --lock-timeout -5', 'lock-timeout'],
    ['apply --mode lock', '--mode: lock is not one of allow, lockdown'],
    ['apply --mode lockdwn', '(did you mean lockdown?)'],
    ['apply --dry-run=maybe', '--dry-run'],
    ['apply --dry-run false', '--dry-run takes no value'],
    ['apply -v=1', '-v takes no value'],
    ['apply --backend nftables,', '--backend is empty'],
    ['apply --exit-code', '--exit-code is for diff and for apply --dry-run'],
    ['verify --exit-code', 'verify takes no --exit-code'],
  ])('refuses %s', (line, message) => {
    expect(() => parse(line)).toThrow(expect.objectContaining({ code: exit.usage }));
    expect(() => parse(line)).toThrow(message);
  });

  it('refuses an empty command line', () => {
    expect(() => parseArguments([])).toThrow('no command was given');
  });
});

describe('parsePorts', () => {
  it('sorts and drops what is there twice', () => {
    expect(parsePorts('443,80,443', 'ports')).toEqual([80, 443]);
    expect(parsePorts([8443, '80'], 'ports')).toEqual([80, 8443]);
  });

  it.each(['', '80,', '0', '65536', '80;443', '80-90', 'http', '-1', '1e2', '080', '8 0'])(
    'refuses %j',
    (list) => {
      expect(() => parsePorts(list, 'ports')).toThrow(
        expect.objectContaining({ code: exit.usage }),
      );
    },
  );
});

describe('help', () => {
  it.each(['', ...Object.keys(commands)])('of %j fits 80 columns', (command) => {
    for (const line of help(command === '' ? undefined : command).split('\n'))
      expect(line.length, line).toBeLessThan(80);
  });

  it('names every option of a command, and an example that parses', () => {
    for (const [name, spec] of Object.entries(commands)) {
      for (const flag of spec.flags) expect(help(name)).toContain(`--${flag}`);
      expect(parseArguments(spec.example.split(' ').slice(1)).command).toBe(name);
    }
  });

  it('has no option that no command takes', () => {
    const taken = new Set(Object.values(commands).flatMap((c) => c.flags as readonly string[]));
    expect(Object.keys(flags).filter((f) => !taken.has(f))).toEqual([]);
    expect(flagSpec('nosuch')).toBeUndefined();
  });
});
