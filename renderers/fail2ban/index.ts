/**
 * fail2ban: Cloudflare's ranges in `ignoreip`, because a banned edge address is an outage.
 *
 * `%(known/ignoreip)s` would be the obvious way to add to the admin's list. fail2ban knows one level
 * of it, so a second one, of the admin's, breaks the whole configuration (measured on 1.0.2). So:
 * where nobody sets `ignoreip`, a file that is read before all others, which any value of the admin's
 * replaces; where somebody does, one that is read last, with his values and ours, all literal.
 * What his values are is never parsed here: `fail2ban-client -d` is asked, in a copy without our files.
 */
import { BackendError } from '../../src/errors.ts';
import { checkKeys } from '../../src/plugin/options.ts';
import { none } from '../../src/prefix.ts';
import { defineRenderer } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { adopt } from './adopt.ts';
import { compose, earlyText, oddIn, sectionsOf } from './files.ts';
import { observe } from './observe.ts';
import { plan } from './plan.ts';
import { print } from './print.ts';
import { noticesOf } from './remarks.ts';
import { configured, type Fail2banAround, type Fail2banOwned, type Files } from './state.ts';

const absent: Files = { early: null, late: null };

export default defineRenderer<object, Fail2banOwned, Fail2banAround>({
  api: 1,
  name: 'fail2ban',
  kind: 'list',

  options(raw) {
    checkKeys(raw, [], 'fail2ban');
    return {};
  },

  nothing: { ranges: none, ...absent, beside: {}, server: null },

  want({ ranges }, _options, around) {
    if (around === undefined)
      return {
        owned: { ranges, early: earlyText(ranges), late: null, beside: {}, server: null },
        notices: [],
      };
    const beside = sectionsOf(around);
    const odd = oddIn(beside);
    if (odd !== undefined)
      throw new BackendError(
        'misconfigured',
        `fail2ban: ignoreip of [${escape(odd[0])}] has ${escape(odd[1])}, which cfsync cannot repeat next to the ranges; nothing was changed; take it out`,
      );
    const server =
      around.server &&
      Object.fromEntries(configured(around.server, around).map(({ name }) => [name, ranges]));
    const owned = { ranges, ...compose(ranges, beside), beside, server };
    return { owned, notices: noticesOf(owned, around) };
  },

  observe,
  plan,
  print,
  adopt,
});
