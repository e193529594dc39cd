/** Finds what lets Cloudflare's addresses in, and would refuse every visitor once nginx sees those of visitors. */
import {
  intersect,
  isEmpty,
  merge,
  network,
  none,
  parseRanges,
  subtract,
} from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';
import { few } from '../../src/text.ts';
import { singling, type Singled } from './by-address.ts';
import { isHttp, type Directive } from './configuration.ts';
import { chainOf, conditionOf, type Decision } from './decisions.ts';
import { nearestOf, replacing, type HttpLevel } from './real-ip.ts';

/** The admin's configuration, of http { } alone, and what our file there says. */
export interface Surroundings {
  /** Access lists and settings of real-IP, without those of ours. */
  readonly directives: readonly Directive[];
  /** Settings of real-IP that our file takes the place of: they count now, and not any more then. */
  readonly taken?: readonly Directive[];
  /** What decides by the client's address. */
  readonly decisions: readonly Decision[];
  /** As `serversOf` answers. */
  readonly servers: readonly string[];
  /** What our file has nginx believe already, as far as it is known that nginx works with it. */
  readonly present: HttpLevel | null;
}

/** Something of the admin's that lets Cloudflare's addresses in, and sees those of visitors. */
interface ShutOut {
  readonly directive: Directive;
  /** What it says, and what that leads to. */
  readonly what: string;
  /** What to write there instead. */
  readonly mend: string;
  /** Whether that begins with our file; else it is so already. */
  readonly fresh: boolean;
}

export interface Findings {
  readonly shut: readonly ShutOut[];
  /** What is not understood where an address will be another one. */
  readonly unclear: readonly {
    readonly directive: Directive;
    readonly why: string;
    readonly mend: string;
  }[];
  /** Whether our file makes nginx believe more than now. */
  readonly news: boolean;
}

/** What `ours` would shut out; `variable` is the one that tells whether a connection comes from Cloudflare. */
export function shutOut(ours: HttpLevel, around: Surroundings, variable: string): Findings {
  const { header, ranges } = ours;
  // With another header other visitors are believed, and perhaps none were.
  const same = around.present?.header.toLowerCase() === header.toLowerCase();
  const before = same ? around.present : null;
  const replaced = replacing(around.directives);
  const replacedNow = replacing([...(around.taken ?? []), ...around.directives]);
  const shut: ShutOut[] = [];
  const unclear: { directive: Directive; why: string; mend: string }[] = [];
  const judge = (place: Directive, named: Ranges, what: string, mend: string): void => {
    if (isEmpty(named)) return;
    const blocks = isHttp(place.blocks) ? placesIn(around, place.blocks) : [place.blocks];
    const seen = blocks.map((one) => intersect(named, replaced(one, ours)));
    const fresh = blocks.some((one, i) => !isEmpty(subtract(seen[i]!, replacedNow(one, before))));
    if (!isEmpty(merge(...seen))) shut.push({ directive: place, what, mend, fresh });
  };
  const nearest = nearestOf(around.directives);
  for (const { allow, named } of accessLists(ranges, around)) {
    const [satisfy] = nearest('satisfy', allow.blocks);
    const end =
      satisfy?.words[1] === 'any'
        ? 'let in nobody but those who have another way (satisfy any)'
        : 'refuse every visitor';
    judge(
      allow,
      named,
      `says "${allow.words.join(' ')}" in a block with "deny all": nginx will compare the visitor's address with it and ${end}`,
      `say "if (${variable} = 0) { return 403; }" there instead`,
    );
  }
  const singled = singling(ranges);
  for (const decision of around.decisions) {
    const { directive } = decision;
    const [found, ...read] = chainOf(decision).map(singled) as [Singled, ...Singled[]];
    // What it reads is the one to mend.
    if (read.some(({ ranges: named }) => named.length > 0)) continue;
    judge(
      directive,
      parseRanges(found.ranges),
      `says "${directive.words.join(' ')}" and names Cloudflare's ranges (${few(found.ranges)}): $remote_addr will be the visitor's address there, and every visitor through Cloudflare will get what strangers get`,
      mendOf(decision),
    );
    if (found.unclear !== undefined && read.every(({ unclear: why }) => why === undefined))
      unclear.push({ directive, why: found.unclear, mend: mendOf(decision) });
  }
  return { shut, unclear, news: !isEmpty(subtract(ranges, before?.ranges ?? none)) };
}

/** Blocks that a variable of http level may be used in; that level stands for servers that have nothing of their own. */
export function placesIn(
  { servers, directives }: Pick<Surroundings, 'servers' | 'directives'>,
  http: readonly string[],
): readonly (readonly string[])[] {
  const own = directives
    .filter(({ words }) => /^(?:set_real_ip_from|real_ip_header)$/.test(words[0]!))
    .map(({ blocks }) => blocks)
    .filter((blocks) => !isHttp(blocks));
  const special = own.map((blocks) => blocks.slice(0, 2));
  const keys = new Set(special.map((blocks) => blocks.join()));
  const all = [...own, ...special];
  if (servers.length === 0 || servers.some((server) => !keys.has(server))) all.push(http);
  return [...new Map(all.map((blocks) => [blocks.join(), blocks])).values()];
}

/** Of each block with a `deny all` the first `allow` of addresses of Cloudflare's, and all of these. */
function accessLists(
  ranges: Ranges,
  { directives }: Surroundings,
): readonly { readonly allow: Directive; readonly named: Ranges }[] {
  const denied = directives.filter(({ words }) => words[0] === 'deny' && words[1] === 'all');
  const closed = new Set(denied.map(({ blocks }) => blocks.join()));
  const lists = new Map<string, { readonly allow: Directive; readonly named: Ranges }>();
  for (const allow of directives.filter(({ words }) => words[0] === 'allow')) {
    const block = allow.blocks.join();
    const prefix = network(allow.words[1] ?? '');
    // With /0 everybody is let in.
    if (!closed.has(block) || prefix === undefined || prefix.endsWith('/0')) continue;
    const ours = intersect(parseRanges([prefix]), ranges);
    const list = lists.get(block);
    if (list !== undefined) lists.set(block, { ...list, named: merge(list.named, ours) });
    else if (!isEmpty(ours)) lists.set(block, { allow, named: ours });
  }
  return [...lists.values()];
}

/** `$realip_remote_addr` is the address of the connection, with real-IP or without. */
export function mendOf(decision: Decision): string {
  const { directive } = chainOf(decision).find(({ source }) => source === undefined) ?? decision;
  const there = directive === decision.directive ? 'there' : `at ${directive.at}`;
  const [name = '', ...rest] = directive.words;
  if (name === 'if')
    return `write $realip_remote_addr in place of ${conditionOf(directive.words)[0]} ${there}`;
  return `write "${name} $realip_remote_addr ${rest.at(-1)} {" ${there}`;
}
