/** How a ban is lifted that no program has a list of: by its set, or by its rule. */
import { namedBy } from '../filters/conditions.ts';
import { size, toPrefixes, type Intervals } from '../filters/intervals.ts';
import { at, elementTexts, listOf } from '../filters/nft/listing.ts';
import type { FilterSeen } from '../filters/observe.ts';
import type { Packet, Rule } from '../filters/walk.ts';
import { families, withLength, withoutLength, type Family } from '../prefix.ts';
import type { Finding } from './check.ts';

/** What a rule keeps out of Cloudflare's ranges. */
export interface Hit {
  readonly rule: Rule;
  readonly verdict: 'drop' | 'reject';
  readonly packet: Packet;
  readonly sources: Record<Family, Intervals>;
}

/** Commands in one line. */
const most = 4;

/** @param hits Of one set, or of rules of one chain without sets. */
export function lift(
  hits: readonly Hit[],
  { nft, ipset, saves }: Pick<FilterSeen, 'nft' | 'ipset' | 'saves'>,
): Pick<Finding, 'command' | 'advice'> {
  const [{ rule }] = hits as readonly [Hit];
  const [set] = rule.sets;
  const addresses = addressesOf(hits);
  if (/crowdsec/i.test(`${set ?? ''} ${rule.place}`))
    return {
      advice: `CrowdSec decides, and bans again what is lifted here: cscli decisions delete --ip ADDRESS (or --range), then an allowlist with Cloudflare's ranges.`,
    };
  if (set === undefined) return liftRules(hits, saves);
  const name = set.replace(/^ipset /, '');
  const held = set === name ? nftElements(nft, set) : ipsetElements(ipset, name);
  // A part of an element cannot be taken out.
  if (!addresses.every((address) => held.includes(withLength(address))))
    return {
      advice: `What ${name} holds covers others as well: have it made again without Cloudflare's ranges, by the program or the list that fills it.`,
    };
  if (set === name) return { command: `nft 'delete element ${set} { ${addresses.join(', ')} }'` };
  return joined(addresses.map((address) => `ipset del ${name} ${address}`));
}

export function addressesOf(hits: readonly Hit[]): readonly string[] {
  const all = hits.flatMap(({ sources }) =>
    families.flatMap((family) => toPrefixes(sources[family], family)),
  );
  return [...new Set(all)].map(withoutLength);
}

function liftRules(
  hits: readonly Hit[],
  saves: FilterSeen['saves'],
): Pick<Finding, 'command' | 'advice'> {
  const isWider = ({ rule, packet, sources }: Hit): boolean => {
    const named = namedBy(rule, packet);
    return named === undefined || size(named) > size(sources[packet.family]);
  };
  if (hits.some(isWider))
    return {
      advice:
        "The rule bans others as well, who would come in without it: write it again without Cloudflare's ranges.",
    };
  return joined(hits.map(({ rule, packet }) => deleteCommand(rule, packet.family, saves)));
}

function deleteCommand(
  { id, place, text }: Rule,
  family: Family,
  saves: FilterSeen['saves'],
): string {
  const handle = /handle (\d+)$/.exec(id)?.[1];
  if (place.startsWith('nft ')) return `nft delete rule ${place.slice(4)} handle ${handle}`;
  const [, table = 'filter'] = place.split(' ');
  const legacy = saves.some(
    (s) => s.variant === 'legacy' && s.family === family && s.text.includes(text),
  );
  const tool = `${family === 'v6' ? 'ip6tables' : 'iptables'}${legacy ? '-legacy' : ''}`;
  return `${tool}${table === 'filter' ? '' : ` -t ${table}`} ${text.replace(/^-A /, '-D ')}`;
}

function joined(commands: readonly string[]): Pick<Finding, 'command' | 'advice'> {
  return commands.length <= most
    ? { command: commands.join(' && ') }
    : { advice: `This lifts the first one, and the others go likewise: ${commands[0]}` };
}

/** Of a set named `inet filter bad`, each with its length. */
function nftElements(nft: FilterSeen['nft'], name: string): readonly string[] {
  const all = [nft?.json ?? '{}', ...(nft?.elements ?? [])].flatMap((json) =>
    listOf(at(JSON.parse(json) as unknown, 'nftables')),
  );
  const found = all
    .map((one) => at(one, 'set'))
    .filter((one) => ['family', 'table', 'name'].map((key) => at(one, key)).join(' ') === name);
  return elementTexts(found.flatMap((one) => listOf(at(one, 'elem')))) ?? [];
}

/** As `ipset save` prints them, with options behind. */
function ipsetElements(save: string, name: string): readonly string[] {
  return save.split('\n').flatMap((line) => {
    const [word, set, element = ''] = line.split(' ');
    return word === 'add' && set === name ? [withLength(element)] : [];
  });
}
