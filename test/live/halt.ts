/** Stands in for a program of a host, and stops each run of it until told to go on. */

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Host } from './lab.ts';

/** On cfsync's PATH before the real programs; name it in `privateDirs` of the lab. */
export const haltDir = '/usr/local/sbin';

/** Milliseconds for what takes well under a second on a quiet machine. */
const patience = 240_000;

/** Waits until something is so, looking often enough for a test and seldom enough for the machine. */
export async function until(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (const end = Date.now() + patience; !(await isSo()); await sleep(20))
    if (Date.now() > end) throw new Error(`not in ${patience / 1000} s: ${what}`);
}

/** Another boot, as far as the kernel's boot id tells; what a boot loses the test takes away. */
export async function boot(host: Host): Promise<void> {
  const id = '/proc/sys/kernel/random/boot_id';
  await host.must([
    'sh',
    '-ec',
    `cat /proc/sys/kernel/random/uuid >/run/boot_id; mount --bind /run/boot_id ${id}`,
  ]);
}

export class Halt {
  readonly #host: Host;
  readonly #folder: string;

  /**
   * @param real The program that runs in the end; absolute.
   * @param runs Which runs stop: those that only ask (with --test or --check), or those that change something.
   */
  static async before(
    host: Host,
    real: string,
    runs: 'check' | 'change' = 'change',
  ): Promise<Halt> {
    const program = real.slice(real.lastIndexOf('/') + 1);
    const halt = new Halt(host, `/run/lab/halt/${program}`);
    const stops = runs === 'check' ? ['', `exec ${real} "$@"`] : [`exec ${real} "$@"`, ''];
    await host.must(['mkdir', '-p', halt.#folder]);
    await host.must(['tee', `${haltDir}/${program}`], {
      stdin: `#!/bin/sh
case " $* " in
  *' --version '*) exec ${real} "$@" ;;
  *' --test '* | *' --check '*) ${stops[0]} ;;
  *) ${stops[1]} ;;
esac
for signal in INT TERM HUP; do trap "echo $signal >> ${halt.#folder}/signals" $signal; done
n=1
while ! mkdir ${halt.#folder}/$n 2>/dev/null; do n=$((n + 1)); done
until [ -e ${halt.#folder}/go ] || [ -e ${halt.#folder}/$n/go ]; do sleep 0.05; done
exec ${real} "$@"
`,
    });
    await host.must(['chmod', '755', `${haltDir}/${program}`]);
    return halt;
  }

  private constructor(host: Host, folder: string) {
    this.#host = host;
    this.#folder = folder;
  }

  /** Resolves when the program stands still in this run of it, counted from 1. */
  async reached(run = 1): Promise<void> {
    const at = this.#host.path(`${this.#folder}/${run}`);
    await until(`run ${run} below ${this.#folder}`, () => existsSync(at));
  }

  /** Lets one run go on, or all of them, those to come included. */
  async goOn(run?: number): Promise<void> {
    await this.#host.must(['touch', `${this.#folder}/${run === undefined ? '' : `${run}/`}go`]);
  }

  /** The names of the signals that came to it while it stood still. */
  async signals(): Promise<readonly string[]> {
    const file = this.#host.path(`${this.#folder}/signals`);
    return existsSync(file) ? (await readFile(file, 'utf8')).trim().split('\n') : [];
  }
}
