/** Asks the programs of iptables. */
import { BackendError } from '../../src/errors.ts';
import { unusable } from '../../src/filters/unusable.ts';
import type { Command, Host } from '../../src/renderer.ts';

export async function ask(host: Host, command: Command): Promise<string> {
  const outcome = await host.query({ timeout: 120_000, ...command });
  if (outcome.code === 0) return outcome.stdout;
  const { argv } = command;
  throw unusable('iptables', argv, outcome, [
    /do you need to insmod|not supported by protocol|Protocol not supported|Cannot open session/,
    `${argv[0]} finds no support in this kernel; load its modules, or use --backend nftables`,
  ]);
}

/** What a program says that need not be there, or need not work. */
export async function optional(host: Host, command: Command): Promise<string | undefined> {
  try {
    const outcome = await host.query({ timeout: 120_000, ...command });
    return outcome.code === 0 ? outcome.stdout : undefined;
  } catch (error) {
    if (error instanceof BackendError) return undefined;
    throw error;
  }
}
