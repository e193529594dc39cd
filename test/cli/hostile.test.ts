import { afterEach, describe, expect, test, vi } from 'vitest';
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import { makeOutput } from '../../src/cli/output.ts';
import { escape } from '../../src/text.ts';
import { expectFit } from '../helpers/hostile.ts';

/** A line that clears the screen, rings, names a file in the title bar, runs backwards and hides a part of itself. */
const nasty = 'a\u001b[2J\u0007\u009b31m\u202eb\u200bc\u2028d\ud800\r\nline two\0\ufeff';

afterEach(() => {
  vi.restoreAllMocks();
});

describe('what other programs said', () => {
  test('is made visible in every error', () => {
    for (const error of [
      new CfsyncError(exit.failed, nasty, { detail: [nasty] }),
      new BackendError('broken', nasty, { detail: [nasty] }),
    ])
      for (const line of [error.message, ...error.detail]) {
        expectFit(line);
        expect(line).toContain('a\\u001b[2J\\u0007\\u009b31m\\u202eb\\u200bc\\u2028d');
        expect(escape(line)).toBe(line);
      }
  });

  test('is made visible in every remark', () => {
    const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    const output = makeOutput({ verbose: true });
    output.warning(nasty, { detail: [nasty] });
    output.note(nasty);
    output.notices('nft\u001b[2J', [{ level: 'warning', text: nasty }]);
    expect(write).toHaveBeenCalledTimes(3);
    for (const [text] of write.mock.calls)
      for (const line of String(text).trimEnd().split('\n')) expectFit(line);
  });

  test('is made visible in a diff on a terminal, and left as it is elsewhere', () => {
    const write = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
    const terminal = Object.getOwnPropertyDescriptor(process.stdout, 'isTTY');
    const shown = (isTTY: boolean): string => {
      Object.defineProperty(process.stdout, 'isTTY', { value: isTTY, configurable: true });
      makeOutput({ 'no-color': true }).diff('+\tx\u001b[2J\n-y\u202e\n');
      return String(write.mock.lastCall![0]);
    };
    expect(shown(true)).toBe('+\tx\\u001b[2J\n-y\\u202e\n');
    expect(shown(false)).toBe('+\tx\u001b[2J\n-y\u202e\n');
    if (terminal) Object.defineProperty(process.stdout, 'isTTY', terminal);
    else Reflect.deleteProperty(process.stdout, 'isTTY');
  });
});
