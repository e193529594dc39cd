/** Finds what `csf -r` would delete of other programs. */
import type { Host } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { isOn, type Conf } from './conf.ts';
import { effectiveLines } from './lines.ts';
import { families, folder, type CsfAround } from './state.ts';

/** The chains and rules of other programs, all of which `csf -r` deletes. */
export async function foreign(
  host: Host,
  conf: Conf,
  kernel: CsfAround['kernel'],
): Promise<readonly string[]> {
  const lists = effectiveLines((await host.read(`${folder}/csf.blocklists`)) ?? '').map((line) =>
    line.split('|')[0]!.toUpperCase().slice(0, 25),
  );
  const redirects = effectiveLines((await host.read(`${folder}/csf.redirect`)) ?? '').length > 0;
  const forwards = redirects || isOn(conf, 'DOCKER');
  const translates = forwards || ['MESSENGER', 'SMTP_REDIRECT'].some((name) => isOn(conf, name));
  const found = families.flatMap((family) =>
    (kernel[family] ?? []).flatMap((t) => {
      const where = `table ${t.name} of ${family === 'v4' ? 'iptables' : 'ip6tables'}`;
      const chains = t.chains.filter(({ name, policy }) => {
        if (policy !== null || csfChain.test(name) || lists.includes(name)) return false;
        const empty = !t.rules.some((rule) => rule.chain === name);
        return !(name === 'DOCKER' && isOn(conf, 'DOCKER') && empty);
      });
      const rules = t.rules.filter(({ chain, text }) => {
        if (t.chains.find((c) => c.name === chain)?.policy === null) return false;
        if (t.name === 'filter') return chain === 'FORWARD' && !forwards;
        if (t.name === 'nat') return !translates;
        return !text.includes('-j CT --helper ftp');
      });
      return [
        ...chains.map(({ name }) => `chain ${escape(name)} in ${where}`),
        ...rules.map((rule) => `rule -A ${rule.chain} ${escape(rule.text)} in ${where}`),
      ];
    }),
  );
  if (!isOn(conf, 'LF_IPSET')) return found;
  // With LF_IPSET csf -r also flushes and destroys every set on the host.
  const ipset = conf.IPSET?.startsWith('/') ? conf.IPSET : 'ipset';
  const { stdout } = await host.query({ argv: [ipset, 'list', '-n'] });
  const sets = stdout.split('\n').filter((name) => name !== '' && !csfSet.test(name));
  return [...found, ...sets.map((name) => `ipset ${escape(name)}`)];
}

/** The chains that CSF makes itself (csf.pl, 14 and 15), beside those named after block lists. */
const csfChain =
  /^(?:LOGACCEPT|CC_ALLOW(?:F|P|PORTS)?|CC_DENY(?:P|PORTS)?|(?:BLOCK|CC|INV)DROP|INVALID|G?(?:ALLOW|DENY)(?:IN|OUT)|(?:ALLOWDYN|GDYN)(?:IN|OUT)|SYNFLOOD|PORTFLOOD|UDPFLOOD|CONNLIMIT|LOGDROP(?:IN|OUT)|LOCAL(?:INPUT|OUTPUT)|SMTPOUTPUT|PK_\d+_S\d+_IN|X_CXS_\w+)$/;
const csfSet = /^(?:chain_|cc_|bl_|MESSENGER)/;
