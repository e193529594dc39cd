/** What the tests of UFW begin with. */
import ufw from '../../../renderers/ufw/index.ts';
import type { Desired } from '../../../src/renderer.ts';
import { recordedUfw, type Case } from '../../fixtures/ufw/hosts.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded } from '../../helpers/host.ts';

export const rules = '/etc/ufw/user.rules';
export const rules6 = '/etc/ufw/user6.rules';
export const settings = '/etc/default/ufw';

/** The four prefixes that the captured hosts have rules for. */
export const four = {
  v4: ['173.245.48.0/20', '198.41.128.0/17'],
  v6: ['2400:cb00::/32', '2606:4700::/32'],
};

export const observe = (name: Case, changes: Record<string, string> = {}) =>
  ufw.observe(recorded(recordedUfw(name, changes)), null);

export async function wantOn(
  name: Case,
  changes: Partial<Desired> = {},
  files: Record<string, string> = {},
) {
  const observed = await observe(name, files);
  const { owned, notices } = ufw.want(desired({ ranges: four, ...changes }), null, observed.around);
  return {
    owned,
    observed,
    notices: notices.map((n) => `${n.level}: ${n.text}`),
    steps: ufw.plan(owned, observed),
  };
}

/** What a refusal says, on all of its lines. */
export async function refusal(
  name: Case,
  changes: Partial<Desired>,
  files: Record<string, string> = {},
) {
  try {
    await wantOn(name, changes, files);
  } catch (error) {
    const { message, detail } = error as { message: string; detail: string[] };
    return [message, ...detail];
  }
  throw new Error('nothing was refused');
}
