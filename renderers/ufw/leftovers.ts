/** Finds in the rules files what scripts left there to let Cloudflare in, and puts it back where it stood. */
import { commandOf } from './command.ts';
import { asPrefix, type Family } from '../../src/prefix.ts';
import { areWithin } from '../../src/plugin/ports.ts';
import { namesOnly } from '../../src/feed/published.ts';
import type { Desired, Ranges, Stray } from '../../src/renderer.ts';
import {
  identity,
  isAnywhere,
  parseRules,
  tupleOf,
  type RulesFile,
  type Segment,
  type Tuple,
} from './rules.ts';

/** A rule that somebody else wrote. */
export interface UfwStray extends Stray {
  readonly family: Family;
  /** Its part of the rules file: a blank line unless that was missing, the tuple line, the `-A` lines. */
  readonly part: string;
  /** What `order` calls it. */
  readonly name: string;
}

export interface Leftovers {
  readonly strays: readonly UfwStray[];
  /** What lets Cloudflare in and is not to be taken over. */
  readonly left: readonly Tuple[];
  /** The file without the strays. */
  readonly rest: RulesFile;
  /** The same with ours in their places. */
  readonly replaced: RulesFile;
  /** The names of all parts of the file, in order. */
  readonly order: readonly string[];
}

/** @param ours Our rules for what has addresses in common with a prefix. */
export function leftovers(
  file: RulesFile,
  family: Family,
  desired: Desired,
  known: Ranges,
  ours: (prefix: string) => readonly string[],
): Leftovers {
  const judged = new Map(file.segments.map((segment) => [segment, judge(segment, desired, known)]));
  // ufw takes all rules of an application profile for one.
  for (const [{ tuple }, verdict] of judged)
    if (verdict === 'left' && tuple!.toApp !== '')
      for (const [other, its] of judged)
        if (its !== undefined && sameProfile(other.tuple!, tuple!)) judged.set(other, 'left');
  const strays: UfwStray[] = [];
  const left = new Set<Tuple>();
  const rest: Segment[] = [];
  const replaced: Segment[] = [];
  const standing = new Set(
    file.segments.flatMap(({ tuple, own }) => (tuple && own ? [identity(tuple)] : [])),
  );
  const order = names(file.segments);
  for (const [i, segment] of file.segments.entries()) {
    const verdict = judged.get(segment);
    if (verdict === undefined || verdict === 'left') {
      rest.push(segment);
      replaced.push(segment);
      if (verdict === 'left') left.add(segment.tuple!);
      continue;
    }
    const { lead, body, tuple } = segment as Required<Segment>;
    const prefix = asPrefix(tuple.from)!.text;
    strays.push({
      text: commandOf(tuple),
      prefixes: [prefix],
      ...(verdict.beyond === '' ? {} : { beyond: verdict.beyond }),
      family,
      part: lead + body,
      name: order[i]!,
    });
    for (const block of ours(prefix)) {
      const id = identity(tupleOf(block));
      if (standing.has(id)) continue;
      standing.add(id);
      replaced.push({ lead: '\n', body: block, tuple: tupleOf(block), own: true });
    }
  }
  return {
    strays,
    left: [...left],
    rest: { ...file, segments: rest },
    replaced: { ...file, segments: replaced },
    order,
  };
}

/** Whether a rule lets Cloudflare in, and whether all that it does is ours to do; undefined where it does not. */
function judge(
  { tuple, own }: Segment,
  { tcpPorts, udpPorts }: Desired,
  known: Ranges,
): { readonly beyond: string } | 'left' | undefined {
  if (tuple === undefined || own || !/^(allow|limit)$/.test(tuple.action)) return undefined;
  const prefix = isAnywhere(tuple.from) ? undefined : asPrefix(tuple.from);
  if (tuple.direction === 'out' || prefix === undefined || !namesOnly(known, [prefix.text]))
    return undefined;
  const { protocol, ports } = tuple;
  const simple =
    tuple.action === 'allow' &&
    !tuple.route &&
    isAnywhere(tuple.to) &&
    tuple.log + tuple.input + tuple.output + tuple.fromApp === '' &&
    tuple.fromPorts === 'any';
  if (!simple) return 'left';
  if (ports === 'any') {
    if (protocol === 'any') return { beyond: 'every other port' };
    return protocol === 'tcp' ? { beyond: 'every other TCP port' } : 'left';
  }
  if (protocol === 'udp') return areWithin(ports, udpPorts) ? { beyond: '' } : 'left';
  if (!areWithin(ports, tcpPorts) || !/^(any|tcp)$/.test(protocol)) return 'left';
  return { beyond: protocol === 'tcp' || areWithin(ports, udpPorts) ? '' : `UDP port ${ports}` };
}

function sameProfile(a: Tuple, b: Tuple): boolean {
  return a.toApp === b.toApp && a.from === b.from;
}

/** What a part of the file is called as long as it stands there, in whatever place. */
function names(segments: readonly Segment[]): string[] {
  const times = new Map<string, number>();
  return segments.map(({ body, tuple, own }) => {
    const name = tuple === undefined ? body : ruleName(tuple, own);
    const n = (times.get(name) ?? 0) + 1;
    times.set(name, n);
    return n === 1 ? name : `${name} ${n}`;
  });
}

/** ufw takes two rules for one when all of this is the same; ours and theirs are two all the same. */
function ruleName(tuple: Tuple, own: boolean): string {
  const { action: _, log: __, comment: ___, ...rest } = tuple;
  return [own ? 'cfsync' : 'rule', ...Object.values(rest)].join(' ');
}

/**
 * The text of a file with these strays back in it, each behind what it stood behind. One that the file has
 * again, with whatever action, is the admin's by now.
 */
export function putBack(
  text: string,
  path: string,
  strays: readonly UfwStray[],
  order: readonly string[],
): string {
  const file = parseRules(text, path);
  const parts = new Map(strays.map((stray) => [stray.name, stray.part]));
  const segments = file.segments.map((s) => s.lead + s.body);
  const present = names(file.segments);
  for (const [i, name] of order.entries()) {
    const part = parts.get(name);
    if (part === undefined || present.includes(name)) continue;
    const before = order.slice(0, i).findLast((one) => present.includes(one));
    const at = before === undefined ? 0 : present.indexOf(before) + 1;
    segments.splice(at, 0, part);
    present.splice(at, 0, name);
  }
  return [file.head, ...segments].join('');
}

/** The file without these strays, where it still has them. */
export function without(file: RulesFile, strays: readonly UfwStray[]): RulesFile {
  const parts = new Set(strays.map((stray) => stray.part));
  return { ...file, segments: file.segments.filter((s) => !parts.has(s.lead + s.body)) };
}
