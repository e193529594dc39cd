import { describe, expect, it } from 'vitest';
import ufw from '../../../renderers/ufw/index.ts';
import { BackendError } from '../../../src/errors.ts';
import { recordedUfw } from '../../fixtures/ufw/hosts.ts';
import { recorded } from '../../helpers/host.ts';
import { rules } from './given.ts';

describe('unusable', () => {
  const unusable = async (host: Parameters<typeof recorded>[0]) => {
    const error = await ufw.observe(recorded(host), null).then(
      () => undefined,
      (e: unknown) => e,
    );
    expect(error).toBeInstanceOf(BackendError);
    return (error as BackendError).reason;
  };

  it('tells why', async () => {
    const host = recordedUfw('enabled');
    const { [rules]: _, ...without } = host.files!;
    const answer = (code: number, stderr: string) => ({
      ...host,
      answers: { ...host.answers, 'iptables -w 10 -S': { code, stdout: '', stderr } },
    });
    expect(await unusable({})).toBe('not installed');
    expect(await unusable({ ...host, files: without })).toBe('misconfigured');
    // iptables 1.8.9 (nf_tables), as another user.
    const denied =
      'iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)';
    expect(await unusable(answer(4, denied))).toBe('no permission');
    expect(await unusable(answer(3, 'iptables who? (do you need to insmod?)'))).toBe('broken');
  });
});
