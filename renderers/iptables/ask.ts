/** Asks the programs of iptables. */
import { BackendError } from '../../src/errors.ts';
import type { Command, Host, Outcome } from '../../src/renderer.ts';
import { firstLines } from '../../src/text.ts';

export async function ask(host: Host, command: Command): Promise<string> {
  const outcome = await host.query({ timeout: 120_000, ...command });
  if (outcome.code !== 0) throw unusable(command.argv, outcome);
  return outcome.stdout;
}

function unusable(argv: readonly string[], outcome: Outcome): BackendError {
  const detail = firstLines(outcome.stderr);
  const text = outcome.stderr;
  if (/you must be root|Permission denied|Operation not permitted/.test(text))
    return new BackendError(
      'no permission',
      'iptables: reading the rules needs root (CAP_NET_ADMIN); run it with sudo',
      { detail },
    );
  if (
    /do you need to insmod|not supported by protocol|Protocol not supported|Cannot open session/.test(
      text,
    )
  )
    return new BackendError(
      'not supported',
      `iptables: ${argv[0]} finds no support in this kernel; load its modules, or use --backend nftables`,
      { detail },
    );
  return new BackendError(
    'broken',
    `iptables: ${argv.join(' ')} failed with code ${outcome.code}`,
    { detail },
  );
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
