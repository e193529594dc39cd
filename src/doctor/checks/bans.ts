/** Does a ban list hold addresses of Cloudflare's: of fail2ban, of CSF, in a set or in single rules? */
import { CfsyncError } from '../../errors.ts';
import { groupBy } from '../../group.ts';
import { bannedIn } from '../../../renderers/fail2ban/answers.ts';
import { ofProcess } from '../../host/proc.ts';
import { families, familyOf } from '../../prefix.ts';
import type { Ranges } from '../../renderer.ts';
import { count, few } from '../../text.ts';
import { defineCheck, type DoctorContext, type DoctorHost, type Finding } from '../check.ts';
import { filtersOf } from '../../filters/ask.ts';
import { intervalsOf } from '../../filters/conditions.ts';
import type { FilterSeen } from '../../filters/observe.ts';
import { common, fromPrefixes, size, union, unionOf, without } from '../../filters/intervals.ts';
import { addressesOf, lift, type Hit } from '../lift.ts';
import { backendOf, isCsfOn, letIn, type Wish } from '../remedy.ts';
import { errorsOf, isBan, keptOut, surveyOf, tryFilters, type Survey } from '../survey.ts';
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
  readonly csf: {
    readonly deny: string;
    readonly temporary: string;
    /** What csf.deny includes, by path. */
    readonly included?: Readonly<Record<string, string>>;
  };
}

/** An address or a network that somebody banned. */
interface Ban {
  readonly address: string;
  /** Where, and since when. */
  readonly where: string;
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
    return {
      filters,
      fail2ban,
      csf: { deny: deny ?? '', temporary: temporary ?? '', included: await included(host, deny) },
    };
  },

  judge(seen, context) {
    const { ranges } = context;
    const hits = hitsOf(seen.filters, context);
    const found: Finding[] = [];
    const left = new Set(hits);
    const add = (
      what: string,
      bans: readonly Ban[],
      remedy: (inside: readonly Ban[], own: readonly Hit[]) => Pick<Finding, 'command' | 'advice'>,
    ): void => {
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
        ...remedy(inside, own),
        // Some bans are routes, as of fail2ban's action `route`: check way-out sees those.
        explains: [...(weighed.explains ?? []), ...banned.map((address) => `route ${address}`)],
      });
    };
    add('fail2ban', fail2banBans(seen), () => ({ command: 'cfsync apply --backend fail2ban' }));
    const denied = csfBans(seen);
    const isIdle =
      seen.filters !== null &&
      isCsfOn(filtersOf(seen.filters).ruleset.chains) &&
      !hits.some((hit) =>
        isWithin(
          hit,
          denied.map(({ address }) => address),
        ),
      );
    if (!isIdle) add('CSF', denied, (inside, own) => csfRemedy(inside, own, seen.filters, context));
    const places = groupBy(left, ({ rule }) => rule.sets[0] ?? rule.place);
    for (const list of places.values()) found.push(other(list, seen.filters!, context));
    return found;
  },
});

/** `Include FILE` in csf.deny (readme.txt of CSF): `csf -dr` takes nothing out of those. */
async function included(
  host: DoctorHost,
  deny: string | undefined,
): Promise<Readonly<Record<string, string>>> {
  const paths = [...(deny ?? '').matchAll(/^Include\s+(\/\S+)/gm)].map(([, path]) => path!);
  const texts = await Promise.all(
    paths.map(async (path) => [path, (await ofProcess(host.read(path))) ?? ''] as const),
  );
  return Object.fromEntries(texts);
}

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
  const files = { '/etc/csf/csf.deny': csf.deny, ...csf.included };
  const permanent = Object.entries(files).flatMap(([path, content]) =>
    content.split('\n').flatMap((text): Ban[] => {
      const [address = ''] = text.trim().split(/[\s#]/);
      return intervalsOf([address]) === undefined
        ? []
        : [{ address, where: `${path}: ${text.trim()}` }];
    }),
  );
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
      const hit = hits.get(rule.id) ?? {
        rule,
        verdict,
        packet: result.packet,
        sources: { v4: [], v6: [] },
      };
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
function other(hits: readonly Hit[], seen: FilterSeen, context: DoctorContext): Finding {
  const [{ rule }] = hits as readonly [Hit];
  const all = addressesOf(hits);
  const [set] = rule.sets;
  const what = count(all.length, 'address or network', 'addresses and networks');
  const survey = surveyOf(seen, context);
  // UFW and CSF write their chains again, and have a place before these rules.
  const isTheirs = ['ufw', 'csf'].includes(backendOf(survey.filters, rule, context));
  return {
    ...weight(hits, context.ranges),
    title:
      set === undefined
        ? `Rules of ${rule.place} ban ${what} of Cloudflare's`
        : `The set ${set.replace(/^ipset /, '')} bans ${what} of Cloudflare's`,
    evidence: [...shown(all), ...shown(hits.map((hit) => line(hit.rule)))],
    ...(set === undefined && isTheirs
      ? letIn(survey, rule, wishesOf(hits, survey), context)
      : lift(hits, seen)),
  };
}

/** What has to come in for the bans to have no effect. */
function wishesOf(hits: readonly Hit[], { doors }: Survey): readonly Wish[] {
  return doors.flatMap(({ family, port, cloudflare }) => {
    const banned = unionOf(hits.map(({ sources }) => sources[family]));
    const sources = common(banned, keptOut(cloudflare));
    return sources.length === 0 ? [] : [{ family, port, sources }];
  });
}

/** CSF asks what it allows before what it denies (15.10): a ban of what is let in has no effect. */
function csfRemedy(
  inside: readonly Ban[],
  hits: readonly Hit[],
  seen: FilterSeen | null,
  context: DoctorContext,
): Pick<Finding, 'command' | 'advice'> {
  if (seen !== null && isCsfOn(filtersOf(seen).ruleset.chains)) {
    const survey = surveyOf(seen, context);
    return letIn(survey, hits[0]?.rule, wishesOf(hits, survey), context);
  }
  const others = inside.filter(({ where }) => !/^\/(?:etc\/csf\/csf\.deny:|var\/lib)/.test(where));
  if (others.length > 0)
    return {
      advice: `csf -dr takes nothing out of a file that csf.deny includes: take the lines out of ${few([...new Set(others.map(({ where }) => where.split(':')[0]!))])}, then: csf -r.`,
    };
  const commands = inside.map(
    ({ address, where }) => `csf ${where.includes('/csf.tempban') ? '-trd' : '-dr'} ${address}`,
  );
  return commands.length <= 3
    ? { command: commands.join(' && ') }
    : { advice: `Each of them is lifted as the first one: ${commands[0]}` };
}

function shown(list: readonly string[]): readonly string[] {
  return atMost(list, 5);
}
