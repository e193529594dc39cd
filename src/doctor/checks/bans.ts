/** Does a ban list hold addresses of Cloudflare's: of fail2ban, of CSF, in a set or in single rules? */
import { CfsyncError } from '../../errors.ts';
import { groupBy } from '../../group.ts';
import { bannedIn } from '../../../renderers/fail2ban/answers.ts';
import { families, familyOf, withoutLength, type Family } from '../../prefix.ts';
import type { Ranges } from '../../renderer.ts';
import { count } from '../../text.ts';
import { defineCheck, type DoctorHost, type Finding } from '../check.ts';
import { intervalsOf } from '../../filters/conditions.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import {
  common,
  fromPrefixes,
  size,
  toPrefixes,
  union,
  without,
  type Intervals,
} from '../../filters/intervals.ts';
import { errorsOf, isBan, surveyOf, tryFilters } from '../survey.ts';
import type { Rule } from '../../filters/walk.ts';
import { atMost } from '../words.ts';
import { line } from '../../filters/words.ts';

interface Seen {
  /** Null where the rules cannot be read, which other checks say. */
  readonly filters: FilterSeen | null;
  readonly fail2ban: readonly {
    readonly jail: string;
    readonly addresses: readonly string[];
    /** What `fail2ban-client get JAIL banip --with-time` printed. */
    readonly times: string;
  }[];
  /** csf.deny and csf.tempban, as they are. */
  readonly csf: { readonly deny: string; readonly temporary: string };
}

/** An address or a network that somebody banned. */
interface Ban {
  readonly address: string;
  /** Where, and since when. */
  readonly where: string;
}

/** What a rule keeps out of Cloudflare's ranges. */
interface Hit {
  readonly rule: Rule;
  readonly verdict: 'drop' | 'reject';
  readonly sources: Record<Family, Intervals>;
}

export default defineCheck<Seen>({
  name: 'bans',
  title: "addresses of Cloudflare's that fail2ban, CSF, a set or a rule bans",

  async observe(host) {
    const [filters, fail2ban, deny, temporary] = await Promise.all([
      tryFilters(host),
      jails(host),
      host.read('/etc/csf/csf.deny'),
      host.read('/var/lib/csf/csf.tempban'),
    ]);
    return { filters, fail2ban, csf: { deny: deny ?? '', temporary: temporary ?? '' } };
  },

  judge(seen, context) {
    const { ranges } = context;
    const hits = hitsOf(seen.filters, context);
    const found: Finding[] = [];
    const left = new Set(hits);
    const add = (what: string, bans: readonly Ban[], command: string): void => {
      const inside = bans.filter(({ address }) => touches(address, ranges));
      if (inside.length === 0) return;
      const banned = inside.map(({ address }) => address);
      const own = [...left].filter((hit) => isWithin(hit, banned));
      for (const hit of own) left.delete(hit);
      const title = `${what} bans ${count(inside.length, 'address', 'addresses')} of Cloudflare's`;
      const weighed = weight(own, ranges);
      found.push({
        ...weighed,
        title,
        evidence: [
          ...shown(inside.map(({ address, where }) => `${address}: ${where}`)),
          ...shown(own.map(({ rule }) => line(rule))),
        ],
        command,
        // Some bans are routes, as of fail2ban's action `route`: check way-out sees those.
        explains: [...(weighed.explains ?? []), ...banned.map((address) => `route ${address}`)],
      });
    };
    add('fail2ban', fail2banBans(seen), 'cfsync apply --backend fail2ban');
    const denied = csfBans(seen);
    const [first] = denied.filter(({ address }) => touches(address, ranges));
    add(
      'CSF',
      denied,
      `csf ${first?.where.includes('tempban') === true ? '-trd' : '-dr'} ${first?.address ?? ''}`,
    );
    const places = groupBy(left, ({ rule }) => rule.sets[0] ?? rule.place);
    for (const list of places.values()) found.push(other(list, seen.filters?.saves ?? [], ranges));
    return found;
  },
});

async function jails(host: DoctorHost): Promise<Seen['fail2ban']> {
  let banned;
  try {
    banned = await host.query({ argv: ['fail2ban-client', 'banned'] });
  } catch (error) {
    if (error instanceof CfsyncError) return [];
    throw error;
  }
  // It is not running, and then it bans nobody.
  if (banned.code !== 0) return [];
  return Promise.all(
    bannedIn(banned.stdout)
      .filter(([, addresses]) => addresses.length > 0)
      .map(async ([jail, addresses]) => {
        const argv = ['fail2ban-client', 'get', jail, 'banip', '--with-time'] as const;
        const { code, stdout } = await host.query({ argv });
        return { jail, addresses, times: code === 0 ? stdout : '' };
      }),
  );
}

function fail2banBans({ fail2ban }: Seen): readonly Ban[] {
  return fail2ban.flatMap(({ jail, addresses, times }) =>
    addresses.map((address) => {
      const words = times.split('\n').find((text) => text.split(/\s/)[0] === address);
      const [, since] = /\t(\S+ \S+) \+/.exec(words ?? '') ?? [];
      return { address, where: `jail ${jail}${since === undefined ? '' : `, since ${since}`}` };
    }),
  );
}

function csfBans({ csf }: Seen): readonly Ban[] {
  const permanent = csf.deny.split('\n').flatMap((text): Ban[] => {
    const [address = ''] = text.trim().split(/[\s#]/);
    return intervalsOf([address]) === undefined
      ? []
      : [{ address, where: `/etc/csf/csf.deny: ${text.trim()}` }];
  });
  const temporary = csf.temporary.split('\n').flatMap((text): Ban[] => {
    const [since, address = ''] = text.split('|');
    if (intervalsOf([address]) === undefined) return [];
    const at = new Date(Number(since) * 1000).toISOString();
    return [{ address, where: `/var/lib/csf/csf.tempban, since ${at}` }];
  });
  return [...permanent, ...temporary];
}

function touches(address: string, ranges: Ranges): boolean {
  const set = intervalsOf([address]);
  const family = familyOf(address);
  return set !== undefined && common(set, fromPrefixes(ranges[family])).length > 0;
}

/** Whether a rule keeps out nothing but what these bans name. */
function isWithin({ sources }: Hit, banned: readonly string[]): boolean {
  return families.every((family) => {
    const own = banned.filter((address) => familyOf(address) === family);
    return without(sources[family], intervalsOf(own) ?? []).length === 0;
  });
}

function hitsOf(seen: FilterSeen | null, context: Parameters<typeof surveyOf>[1]): readonly Hit[] {
  if (seen === null) return [];
  const hits = new Map<string, Hit>();
  for (const { family, cloudflare } of surveyOf(seen, context).doors)
    for (const result of cloudflare) {
      const { verdict, rules, sources } = result;
      const [rule] = rules;
      if ((verdict !== 'drop' && verdict !== 'reject') || rule === undefined) continue;
      if (!isBan(result, context.ranges[family])) continue;
      const hit = hits.get(rule.id) ?? { rule, verdict, sources: { v4: [], v6: [] } };
      hits.set(rule.id, hit);
      hit.sources[family] = union(hit.sources[family], sources);
    }
  return [...hits.values()];
}

function weight(
  hits: readonly Hit[],
  ranges: Ranges,
): Pick<Finding, 'level' | 'share' | 'causes' | 'explains'> {
  const verdicts = hits.map(({ verdict }) => verdict);
  const isAll = hits.some(
    ({ sources }) =>
      ranges.v4.length > 0 && size(without(fromPrefixes(ranges.v4), sources.v4)) === 0n,
  );
  return {
    level: 'problem',
    share: isAll ? 'all' : 'part',
    // Which of the two it is, the rule tells; without one (another way to ban) either may be.
    causes: verdicts.length === 0 ? [521, 522] : errorsOf(verdicts),
    explains: hits.map(({ rule }) => rule.id),
  };
}

/** Bans of one set or one chain, which neither fail2ban nor CSF knows of. */
function other(hits: readonly Hit[], saves: FilterSeen['saves'], ranges: Ranges): Finding {
  const [{ rule, sources } = hits[0]!] = hits;
  const addressesOf = (of: Hit['sources']): readonly string[] =>
    families.flatMap((family) => toPrefixes(of[family], family)).map(withoutLength);
  const all = hits.flatMap((hit) => addressesOf(hit.sources));
  const [set] = rule.sets;
  const what = count(all.length, 'address or network', 'addresses and networks');
  return {
    ...weight(hits, ranges),
    title:
      set === undefined
        ? `Rules of ${rule.place} ban ${what} of Cloudflare's`
        : `The set ${set.replace(/^ipset /, '')} bans ${what} of Cloudflare's`,
    evidence: [...shown(all), ...shown(hits.map((hit) => line(hit.rule)))],
    ...(hits.length > 1 && { advice: 'This lifts the first one; the others go likewise.' }),
    command: liftCommand(rule, addressesOf(sources), saves),
  };
}

/** Takes it out of the set that the rule asks, or takes the rule away. */
function liftCommand(
  { sets, id, place, text }: Rule,
  addresses: readonly string[],
  saves: FilterSeen['saves'],
): string {
  const [set = ''] = sets;
  const [address = ''] = addresses;
  if (set.startsWith('ipset ')) return `ipset del ${set.slice(6)} ${address}`;
  if (set !== '') return `nft 'delete element ${set} { ${addresses.join(', ')} }'`;
  const handle = /handle (\d+)$/.exec(id)?.[1];
  if (place.startsWith('nft ')) return `nft delete rule ${place.slice(4)} handle ${handle}`;
  const [, table = 'filter'] = place.split(' ');
  const family = familyOf(address);
  const legacy = saves.some(
    (s) => s.variant === 'legacy' && s.family === family && s.text.includes(text),
  );
  const tool = `${family === 'v6' ? 'ip6tables' : 'iptables'}${legacy ? '-legacy' : ''}`;
  return `${tool}${table === 'filter' ? '' : ` -t ${table}`} ${text.replace(/^-A /, '-D ')}`;
}

function shown(list: readonly string[]): readonly string[] {
  return atMost(list, 5);
}
