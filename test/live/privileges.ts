/** Decides whether live tests can run here, and says aloud when they cannot. */

import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { describe, expect, test } from 'vitest';

/** Where programs are looked for, here and inside the lab: cfsync's own fixed PATH. */
export const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** What every lab is made with. */
const labPrograms = ['unshare', 'nsenter', 'mount', 'ip'];

/** What a group of tests cannot do without. */
export interface Needs {
  /** Root that may create network, mount and PID namespaces. */
  readonly root?: boolean;
  readonly programs?: readonly string[];
}

/** The first need that this machine does not meet, as in `needs root`, or undefined. */
function needs({ root = false, programs = [] }: Needs): string | undefined {
  if (root && process.geteuid?.() !== 0) return 'needs root';
  const missing = programs.filter((program) => !installed(program));
  if (missing.length > 0) return `needs ${missing.join(', ')}`;
  if (root && !canUnshare()) return 'needs the right to create namespaces (CAP_SYS_ADMIN)';
  return undefined;
}

/**
 * `describe` for tests that need the lab, and with it root. What is missing fails the group where nobody
 * would notice a skip (CI, or CFSYNC_TEST_ALL=1), and elsewhere leaves a skipped test that names it.
 */
export function describeLive(
  name: string,
  { programs = [] }: Pick<Needs, 'programs'>,
  body: () => void,
): void {
  const missing = needs({ root: true, programs: [...labPrograms, ...programs] });
  const mustRun = Boolean(process.env['CI']) || process.env['CFSYNC_TEST_ALL'] === '1';
  // The default reporter only counts what is skipped.
  if (missing !== undefined && !mustRun) console.warn(`skipped: ${name}: ${missing}`);
  describe(`live: ${name}`, () => {
    if (missing === undefined) {
      body();
      return;
    }
    test.skipIf(!mustRun)(`${mustRun ? 'cannot run' : 'skipped'}: ${missing}`, () => {
      expect(missing).toBeUndefined();
    });
  });
}

function installed(program: string): boolean {
  return path.split(':').some((folder) => {
    try {
      accessSync(`${folder}/${program}`, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Root inside a container often lacks the capability. */
function canUnshare(): boolean {
  return spawnSync('unshare', ['--net', '--mount', '--pid', '--fork', 'true']).status === 0;
}
