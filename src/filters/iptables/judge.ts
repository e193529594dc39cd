/** Judges what iptables rules do to new connections from Cloudflare. */
import { equal, intersect, isEmpty, none, parseRanges, type Family } from '../../prefix.ts';
import type { Desired, Ranges } from '../../renderer.ts';
import {
  isGoto,
  optionsOf,
  rulesOf,
  targetOf,
  wordsOf,
  type SavedRule,
  type SavedTable,
} from './save.ts';

/** A new connection from a prefix of Cloudflare's to one of the ports. */
export interface Probe {
  readonly family: Family;
  readonly protocol: 'tcp' | 'udp';
  readonly port: number;
  readonly ranges: Ranges;
  /** Interfaces with a default route: where Cloudflare comes in. */
  readonly interfaces: readonly string[];
}

type Answer = 'yes' | 'no' | 'maybe';

export interface Walk {
  readonly verdict: 'drop' | 'accept' | 'continue';
  /** The deciding rule of the chain; none where it is left at its end. */
  readonly rule?: SavedRule;
  /** Rules that may drop the traffic, on conditions that cannot be judged here; each once. */
  readonly unclear: readonly SavedRule[];
  /** A rule that accepts the traffic from everywhere. */
  readonly open?: SavedRule;
}

export function probes(
  desired: Desired,
  family: Family,
  interfaces: readonly string[],
): readonly Probe[] {
  const { ranges } = desired;
  const each = (protocol: 'tcp' | 'udp', list: readonly number[]): Probe[] =>
    list.map((port) => ({ family, protocol, port, ranges, interfaces }));
  return [...each('tcp', desired.tcpPorts), ...each('udp', desired.udpPorts)];
}

/** Deeper than any: nft allows 16 nested jumps (NFT_JUMP_STACK_SIZE). */
const deepest = 100;

/**
 * Follows a probe through a chain, past the rules that `ours` names. A rule decides only when every condition
 * is known to hold. An accept that has conditions is passed, because the admin may take it away.
 */
export function walk(
  table: SavedTable,
  chain: string,
  probe: Probe,
  ours: (rule: SavedRule) => boolean,
): Walk {
  const unclear = new Set<SavedRule>();
  let open: SavedRule | undefined;
  // Each chain is followed once, however many jumps lead to it. What leads back into it is taken to go on: the
  // kernel refuses loops.
  const known = new Map<string, Pick<Walk, 'verdict'>>();

  const follow = (name: string, depth: number): Pick<Walk, 'verdict' | 'rule'> => {
    for (const rule of rulesOf(table, name) ?? []) {
      if (ours(rule)) continue;
      const words = wordsOf(rule.text);
      const target = targetOf(words);
      if (target === undefined) continue;
      const { holds, bare, port } = conditions(words, probe);
      if (holds === 'no') continue;
      if (target === 'ACCEPT') {
        if (bare) return { verdict: 'accept', rule };
        if (holds === 'yes' && port) open ??= rule;
      } else if (drops.includes(target)) {
        if (holds === 'yes') return { verdict: 'drop', rule };
        unclear.add(rule);
      } else if (target === 'RETURN') {
        if (holds === 'yes') return { verdict: 'continue', rule };
      } else if (queues.includes(target)) {
        unclear.add(rule); // a program decides
      } else if (rulesOf(table, target) !== undefined) {
        const inner = into(target, depth + 1);
        if (holds !== 'yes') {
          if (inner.verdict === 'drop') unclear.add(rule);
        } else if (inner.verdict !== 'continue' || isGoto(words))
          return { verdict: inner.verdict, rule };
      }
    }
    return { verdict: 'continue' };
  };
  const into = (name: string, depth: number): Pick<Walk, 'verdict'> => {
    let found = known.get(name);
    if (found !== undefined || depth > deepest) return found ?? { verdict: 'continue' };
    known.set(name, { verdict: 'continue' });
    found = follow(name, depth);
    known.set(name, found);
    return found;
  };
  const end = follow(chain, 0);
  return { ...end, unclear: [...unclear], ...(open === undefined ? {} : { open }) };
}

/** As `walk`, through a base chain and its policy. */
export function walkBase(
  table: SavedTable,
  chain: string,
  probe: Probe,
  ours: (rule: SavedRule) => boolean,
): Walk {
  const found = walk(table, chain, probe, ours);
  if (found.verdict !== 'continue') return found;
  const policy = table.chains.find((c) => c.name === chain)?.policy;
  return { ...found, verdict: policy === 'DROP' ? 'drop' : 'accept' };
}

/** Whether a rule of a base chain may let a probe past what stands below it. */
export function mayPass(table: SavedTable, rule: SavedRule, probe: Probe): boolean {
  const seen = new Set<string>();
  const passes = (one: SavedRule, depth: number): boolean => {
    const words = wordsOf(one.text);
    const target = targetOf(words);
    if (target === undefined || conditions(words, probe).holds === 'no') return false;
    if (target === 'ACCEPT' || queues.includes(target)) return true;
    if (target === 'RETURN') return depth === 0;
    const rules = rulesOf(table, target);
    if (rules === undefined) return false;
    if (isGoto(words)) return true;
    if (seen.has(target) || depth > deepest) return false;
    seen.add(target);
    return rules.some((inner) => passes(inner, depth + 1));
  };
  return passes(rule, 0);
}

/** Whether a rule of table nat sends the port on, as Docker does for a published port. */
export function publishes(rule: SavedRule, probe: Probe): boolean {
  const words = wordsOf(rule.text);
  const { holds, port } = conditions(words, probe);
  return targetOf(words) === 'DNAT' && port && holds !== 'no';
}

const drops = ['DROP', 'REJECT', 'TARPIT'];
const queues = ['QUEUE', 'NFQUEUE'];

/** Options that say nothing about a packet. */
const silent = ['-m', '--comment'];

interface Conditions {
  readonly holds: Answer;
  /** There are none. */
  readonly bare: boolean;
  /** There is one on the destination port. */
  readonly port: boolean;
}

function conditions(words: readonly string[], probe: Probe): Conditions {
  let holds: Answer = 'yes';
  let bare = true;
  let port = false;
  for (const { option, values, negated } of optionsOf(words)) {
    if (silent.includes(option)) continue;
    bare = false;
    if (/^--dports?$/.test(option)) port = true;
    const one = matches(option, values, probe);
    if (one === 'maybe') {
      if (holds === 'yes') holds = 'maybe';
    } else if ((one === 'yes') === negated) holds = 'no';
  }
  return { holds, bare, port };
}

function matches(option: string, values: readonly string[], probe: Probe): Answer {
  const said = (yes: boolean): Answer => (yes ? 'yes' : 'no');
  const value = values[0] ?? '';
  switch (option) {
    case '-p':
      return said(value === probe.protocol);
    case '-s':
      return sourceAnswer(value, probe);
    case '-i':
      if (value === 'lo') return 'no';
      return probe.interfaces.some((name) => nameFits(name, value)) ? 'yes' : 'maybe';
    case '--dport':
    case '--dports':
      return said(value.split(',').some((one) => inRange(one, probe.port)));
    case '--ctstate':
    case '--state':
      return said(value.split(',').includes('NEW'));
    case '--tcp-flags': {
      // The first packet of a connection has SYN and nothing else.
      const [mask, set] = values.map((list) => list.split(','));
      return said((mask?.includes('SYN') ? 'SYN' : 'NONE') === set?.join(','));
    }
    case '--dst-type':
      return said(value.split(',').includes('LOCAL'));
    case '--rt-type': // a routing header
      return 'no';
    default:
      return 'maybe';
  }
}

/** Decided when the prefix holds all of the ranges or none of them. */
function sourceAnswer(value: string, probe: Probe): Answer {
  const own = { ...none, [probe.family]: probe.ranges[probe.family] };
  let hit: Ranges;
  try {
    hit = intersect(own, parseRanges([value]));
  } catch {
    return 'maybe'; // a mask with gaps
  }
  if (isEmpty(hit)) return 'no';
  return equal(hit, own) ? 'yes' : 'maybe';
}

function nameFits(name: string, pattern: string): boolean {
  return pattern.endsWith('+') ? name.startsWith(pattern.slice(0, -1)) : name === pattern;
}

/** `443` or `1024:65535`. */
function inRange(text: string, port: number): boolean {
  const [low, high = low] = text.split(':').map(Number);
  return low! <= port && port <= high!;
}
