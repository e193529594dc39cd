/** Judges a list of addresses that are let in or refused by whom the server sees there. */
import { asPrefix, intersect, isEmpty, parseRanges, subtract } from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import { localSpace } from '../special-purpose.ts';
import type { Finding } from './check.ts';

/** Who is seen at a place of the configuration. */
export interface View {
  /** Ranges whose connections keep Cloudflare's address. */
  readonly edge: Ranges;
  /** Why, as a line of evidence. */
  readonly why: string;
}

/** https://developers.cloudflare.com/fundamentals/reference/http-headers/ */
export const headers = [
  'cf-connecting-ip',
  'true-client-ip',
  'x-forwarded-for',
  'cf-connecting-ipv6',
];

export interface Rule {
  readonly allow: boolean;
  /** `all`, an address or a prefix. */
  readonly what: string;
  readonly line: string;
}

/** One list of allow and deny. */
export function accessList(
  rules: readonly Rule[],
  view: View,
  ranges: Ranges,
  share: 'all' | 'part',
  server: 'nginx' | 'Apache',
): readonly Finding[] {
  const shut = rules.find(({ allow, what }) => !allow && what === 'all');
  const allowed = rules.filter(({ allow, what }) => allow && what !== 'all');
  const denied = rules.filter(({ allow, what }) => !allow && what !== 'all');
  const allowedRanges = prefixes(allowed.map(({ what }) => what));
  const ofCloudflare = intersect(allowedRanges, ranges);
  const seesVisitors = isEmpty(view.edge);
  const everybody = rules.some(({ allow, what }) => allow && what === 'all');
  if (everybody) return [];
  if (seesVisitors) {
    const lines = allowed.filter(({ what }) => !isEmpty(intersect(prefixes([what]), ranges)));
    if (shut === undefined || isEmpty(ofCloudflare) || isWide(allowedRanges)) return [];
    return [
      {
        level: 'problem',
        share,
        causes: [],
        title: `${server} lets in Cloudflare's addresses alone, and sees the visitors': every visitor gets 403`,
        evidence: [...lines.slice(0, 3).map((rule) => rule.line), shut.line],
        advice:
          server === 'nginx'
            ? 'Say "if ($from_cloudflare = 0) { return 403; }" there instead, with the variable of cfsync apply --backend nginx, which is about the connection; or lock the ports with cfsync apply --mode lockdown.'
            : 'Say Require expr "%{CONN_REMOTE_ADDR} -ipmatch \'173.245.48.0/20\'", a range each, in <RequireAny> instead, which is about the connection; or lock the ports with cfsync apply --mode lockdown.',
      },
    ];
  }
  const mend =
    server === 'nginx'
      ? { command: 'cfsync apply --backend nginx' }
      : { advice: 'Let mod_remoteip take the visitor from CF-Connecting-IP (a2enmod remoteip).' };
  if (shut !== undefined && !isEmpty(subtract(allowedRanges, localSpace)) && isEmpty(ofCloudflare))
    return [
      {
        level: share === 'all' ? 'problem' : 'warning',
        share,
        causes: [],
        title: `${server} lets in a few addresses, and sees Cloudflare's: everybody who comes through it gets 403`,
        evidence: [...allowed.slice(0, 3).map((rule) => rule.line), shut.line, view.why],
        ...mend,
      },
    ];
  const out = denied.filter(({ what }) => !isEmpty(intersect(prefixes([what]), view.edge)));
  if (out.length > 0)
    return [
      {
        level: 'warning',
        share: 'part',
        causes: [],
        title: `${server} refuses addresses of Cloudflare's: the visitors behind them get 403`,
        evidence: [...out.slice(0, 3).map((rule) => rule.line), view.why],
        ...mend,
      },
    ];
  if (denied.length === 0 || shut !== undefined) return [];
  return [
    {
      level: 'note',
      share: 'maybe',
      causes: [],
      title: `${server} refuses addresses that it never sees through Cloudflare`,
      evidence: [...denied.slice(0, 3).map((rule) => rule.line), view.why],
      ...mend,
    },
  ];
}

/** Addresses and prefixes; what is neither, or has host bits, is left out. */
export function prefixes(words: readonly string[]): Ranges {
  return parseRanges(words.flatMap((word) => asPrefix(word)?.text ?? []));
}

/** Whether nearly everybody is in it. */
function isWide({ v4, v6 }: Ranges): boolean {
  return [...v4, ...v6].some((prefix) => /\/[0-4]$/.test(prefix));
}
