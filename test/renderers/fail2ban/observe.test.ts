import { describe, expect, it } from 'vitest';
import fail2ban from '../../../renderers/fail2ban/index.ts';
import { BackendError } from '../../../src/errors.ts';
import type { Command, Outcome } from '../../../src/renderer.ts';
import { apart, configuration, joined } from '../../helpers/fail2ban.ts';
import { recorded } from '../../helpers/host.ts';
import { observe } from './given.ts';

describe('a host that cannot be used', () => {
  it.each([
    ['broken', 'misconfigured', 'does not load'],
    ['nobody', 'no permission', 'run cfsync as root'],
  ] as const)('%s', async (fixture, reason, message) => {
    const error: unknown = await observe(fixture).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(BackendError);
    expect(error).toMatchObject({ reason, message: expect.stringContaining(message) as string });
  });

  it('broken: fail2ban says where', async () => {
    await expect(observe('broken')).rejects.toMatchObject({
      detail: [
        "Failed during configuration: While reading from '/etc/fail2ban/jail.local' [line 10]: option 'ignoreip' in section 'labt' already exists",
        'Init of command line failed',
      ],
    });
  });

  it('broken, although our early file would mend it', async () => {
    await expect(observe('known', {})).rejects.toThrow('does not load');
  });

  it('a file of ours that is a link', async () => {
    const host = apart('applied');
    const said = JSON.parse(host.answers![configuration] as string) as { links: string[] };
    said.links.push('jail.d/00-cfsync.conf');
    const answers = { ...host.answers, [configuration]: JSON.stringify(said) };
    const linked = recorded(joined({ ...host, answers }));
    await expect(fail2ban.observe(linked, {})).rejects.toThrow('is a symbolic link');
  });

  const missing = (program: string) =>
    new BackendError('not installed', `${program} is not installed`);
  it.each([
    ['fail2ban is', ['fail2ban-client'], 'fail2ban-client'],
    ['fail2ban and python3 are', ['fail2ban-client', 'python3'], 'fail2ban-client'],
    ['python3 is', ['python3'], 'python3'],
  ])('%s not installed', async (_, absent, named) => {
    const host = {
      ...recorded({}),
      query: async ({ argv: [program] }: Command): Promise<Outcome> => {
        if (absent.includes(program)) throw missing(program);
        return { code: program === 'python3' ? 127 : 0, stdout: '', stderr: '' };
      },
    };
    await expect(fail2ban.observe(host, {})).rejects.toThrow(missing(named));
  });

  it('no folder for our files', async () => {
    const host = apart('plain');
    const answers = { ...host.answers, [configuration]: 'null' };
    await expect(fail2ban.observe(recorded(joined({ ...host, answers })), {})).rejects.toThrow(
      'there is no /etc/fail2ban/jail.d',
    );
  });
});
