/**
 * CSF (ConfigServer Firewall): own files behind one Include line in csf.allow and csf.ignore, and the same
 * rules in the running firewall.
 *
 * For each range a line for the way in and one for the way out: `csf -d` and lfd do not see advanced filters,
 * so a banned edge address gets a rule in DENYOUT, which drops the answers unless ALLOWOUT comes first
 * (measured with CSF 15.10). csf.ignore keeps lfd from banning them.
 *
 * `csf -r` flushes every table of iptables, fail2ban's and Docker's chains with it, and one bad line leaves the
 * host open to all. So the rules come and go one by one in CSF's own chains, in the form that CSF gives them,
 * and `csf -r` runs only where it is asked for and nothing of others would die.
 *
 * The rules carry no mark, because those that CSF makes at its own restarts have none. Ours are those that
 * cfsync.allow names, as often as the admin's own lines do not. The file therefore names a rule that goes
 * until it is gone from the kernel.
 */
import { bool, checkKeys } from '../../src/plugin/options.ts';
import { merge, none } from '../../src/prefix.ts';
import { defineRenderer } from '../../src/renderer.ts';
import { adopt } from './adopt.ts';
import { lineOf } from './lines.ts';
import { observe } from './observe.ts';
import { plan } from './plan.ts';
import { print } from './print.ts';
import { refuse, refuseOpen } from './refuse.ts';
import { remarks } from './remarks.ts';
import { files, type CsfAround, type CsfOptions, type CsfOwned } from './state.ts';
import { allowText, entries, ignoreText } from './wanted.ts';

const nothing: CsfOwned = {
  ranges: none,
  allow: null,
  ignore: null,
  blocks: { allow: false, ignore: false },
  loaded: { v4: null, v6: null },
};

export default defineRenderer<CsfOptions, CsfOwned, CsfAround>({
  api: 1,
  name: 'csf',
  kind: 'filter',
  conflicts: {
    iptables: 'CSF flushes every chain of iptables when it restarts',
    ufw: 'both are front ends of the same chains, and CSF flushes those of UFW when it restarts',
  },

  options(raw) {
    checkKeys(raw, ['reload'], 'csf');
    return { reload: bool(raw.reload ?? false, 'csf: reload') };
  },

  // `csf -a` takes it while it writes. `csf -r` waits for it, with all tables flushed (ConfigServer::Slurp), so
  // it is not held over one of ours. csf.lock is never taken: `csf -r`, also the one at boot, does not wait
  // for that and gives up.
  locks({ reload }) {
    return reload ? [] : [{ kind: 'flock', path: files.allow }];
  },

  nothing,

  want(desired, { reload }, around) {
    const ranges = merge(desired.ranges, desired.extra);
    const owned: CsfOwned = {
      ...nothing,
      ranges,
      allow: allowText(entries(desired, ranges).map(lineOf)),
      ignore: ignoreText(desired.ranges),
      blocks: { allow: true, ignore: true },
    };
    if (around === undefined) return { owned, notices: [] };
    refuse(owned, reload, around);
    if (desired.mode === 'lockdown') refuseOpen(desired, around);
    return { owned, notices: remarks(desired, ranges, around) };
  },

  observe,
  plan,
  print,
  adopt,
});
