/** Reads what iptables-save and ip6tables-save print (1.8.9, both variants) as rules that the walk understands. */
import { isGoto, optionsOf, targetOf, wordsOf, type SavedTable } from './save.ts';
import type { Family } from '../../prefix.ts';
import { fromInterval, PrefixError } from '../../prefix.ts';
import {
  agreed,
  destinations,
  flagsOf,
  holds,
  intervalsOf,
  limit,
  sourcePort,
  synFlag,
  unknown,
} from '../conditions.ts';
import type { Intervals } from '../intervals.ts';
import type { IpSets } from './ipset.ts';
import {
  not,
  type Action,
  type Base,
  type Condition,
  type Hook,
  type Packet,
  type Protocol,
  type Rule,
} from '../walk.ts';

/** What stands in front of the name of a chain of the walk; one word. */
type Prefix = 'legacy4' | 'legacy6' | 'kept';

/** The rules of a table, by chain. */
export function readTable(
  table: SavedTable,
  prefix: Prefix,
  family: Family,
  sets: Pick<IpSets, 'asks'>,
): ReadonlyMap<string, readonly Rule[]> {
  const chains = new Map<string, Rule[]>(table.chains.map(({ name }) => [name, []]));
  const names = new Set(chains.keys());
  for (const { chain, text } of table.rules) {
    const words = wordsOf(text);
    const { conditions, asked } = conditionsOf(words, family, sets);
    const place = `iptables ${table.name} ${chain}`;
    chains.get(chain)?.push({
      id: `${place} ${text}`,
      place,
      text: `-A ${chain} ${text}`,
      conditions,
      actions: actionsOf(words, `${prefix} ${table.name}`, names),
      sets: asked.map((name) => `ipset ${name}`),
    });
  }
  return chains;
}

/** Where the kernel asks the built-in chains (netfilter_ipv4.h), as far as a packet that comes in goes. */
const hooks: Readonly<Record<string, Hook>> = {
  PREROUTING: 'prerouting',
  INPUT: 'input',
  FORWARD: 'forward',
};
const priorities: Readonly<Record<string, number>> = {
  raw: -300,
  mangle: -150,
  nat: -100,
  filter: 0,
  security: 50,
};

/** The base chains of the legacy variant, which nft does not see. */
export function legacyBases(table: SavedTable, family: Family): readonly Base[] {
  const priority = priorities[table.name];
  if (priority === undefined) return [];
  return table.chains.flatMap(({ name, policy }): Base[] => {
    const hook = hooks[name];
    if (policy === null || hook === undefined) return [];
    const place = `iptables ${table.name} ${name}`;
    return [
      {
        hook,
        priority: table.name === 'nat' && hook === 'input' ? 100 : priority,
        families: [family],
        chain: `legacy${family === 'v4' ? 4 : 6} ${table.name} ${name}`,
        nat: table.name === 'nat',
        policy: policy === 'DROP' ? 'drop' : 'accept',
        end: {
          id: `${place} policy`,
          place,
          text: `-P ${name} ${policy}`,
          conditions: [],
          actions: [],
          sets: [],
        },
      },
    ];
  });
}

/** Targets that change or note something, and let the packet go on. */
const passing = new Set(
  'LOG NFLOG ULOG AUDIT TRACE TCPMSS TCPOPTSTRIP TOS DSCP ECN TTL HL CHECKSUM SET CLASSIFY SECMARK CONNSECMARK RATEEST LED IDLETIMER SNAT MASQUERADE NETMAP TEE'.split(
    ' ',
  ),
);

function actionsOf(
  words: readonly string[],
  table: string,
  chains: ReadonlySet<string>,
): readonly Action[] {
  const target = targetOf(words);
  if (target === undefined) return [];
  const option = (name: string): string | undefined => {
    const at = words.lastIndexOf(name);
    return at < 0 ? undefined : words[at + 1];
  };
  if (chains.has(target))
    return [{ kind: isGoto(words) ? 'goto' : 'jump', chain: `${table} ${target}` }];
  if (passing.has(target)) return [];
  switch (target) {
    case 'ACCEPT':
      return [{ kind: 'accept' }];
    case 'DROP':
    case 'STEAL':
    // It takes the connection and never answers, which looks the same from outside.
    case 'TARPIT':
      return [{ kind: 'drop' }];
    case 'REJECT':
      return [{ kind: 'reject' }];
    case 'RETURN':
      return [{ kind: 'return' }];
    case 'MARK': {
      // What --set-mark is saved as; a smaller mask keeps a part of the old mark.
      const [, value] =
        /^(0x[\da-f]+|\d+)(?:\/0xffffffff)?$/.exec(option('--set-xmark') ?? '') ?? [];
      return [{ kind: 'mark', ...(value !== undefined && { value: Number(value) }) }];
    }
    case 'CONNMARK':
      return words.includes('--restore-mark') ? [{ kind: 'mark' }] : [{ kind: 'connectionMark' }];
    case 'NOTRACK':
      return [{ kind: 'untrack' }];
    case 'CT':
      return words.includes('--notrack') ? [{ kind: 'untrack' }] : [];
    case 'REDIRECT': {
      const ports = option('--to-ports');
      if (ports === undefined) return [{ kind: 'translate' }];
      return /^\d+$/.test(ports)
        ? [{ kind: 'translate', port: Number(ports) }]
        : [{ kind: 'unknown', unknown: 'REDIRECT to several ports' }];
    }
    case 'DNAT': {
      const to = option('--to-destination') ?? '';
      const [, four, six, bare, port] =
        /^(?:(\d+\.\d+\.\d+\.\d+)|\[([\da-f:]+)\]|([\da-f:]*:[\da-f:]*:[\da-f:]*))?(?::(\d+))?$/i.exec(
          to,
        ) ?? [];
      const address = four ?? six ?? bare;
      if (address === undefined) return [{ kind: 'unknown', unknown: `DNAT to ${to}` }];
      return [{ kind: 'translate', address, ...(port !== undefined && { port: Number(port) }) }];
    }
    default:
      return [{ kind: 'unknown', unknown: target }];
  }
}

/** Modules of which every option is read below, or which need none. */
const modules = new Set(
  'comment multiport conntrack state set addrtype limit hashlimit connlimit recent mark connmark iprange pkttype policy rpfilter'.split(
    ' ',
  ),
);

/** Modules that look for something that a first packet of TCP or UDP is not. */
const foreign = new Set(['udplite', 'icmp', 'icmp6', 'sctp', 'dccp', 'esp', 'ah', 'frag', 'rt']);

/** As -p takes them. */
const protocolNames: Readonly<Record<Protocol, readonly string[]>> = {
  tcp: ['tcp', '6'],
  udp: ['udp', '17'],
};

/** Options that only say more about one that is read. */
const details = new Set(
  '--limit-burst --hashlimit-burst --hashlimit-mode --hashlimit-name --hashlimit-srcmask --hashlimit-dstmask --hashlimit-htable-size --hashlimit-htable-max --hashlimit-htable-expire --hashlimit-htable-gcinterval --hashlimit-rate-match --hashlimit-rate-interval --connlimit-mask --connlimit-saddr --connlimit-daddr --seconds --hitcount --reap --name --mask --rsource --rttl --limit-iface-in --comment --loose --validmark --accept-local --invert --pol --update-counters --update-subcounters'.split(
    ' ',
  ),
);

function conditionsOf(
  words: readonly string[],
  family: Family,
  sets: Pick<IpSets, 'asks'>,
): { readonly conditions: readonly Condition[]; readonly asked: readonly string[] } {
  const conditions: Condition[] = [];
  const asked: string[] = [];
  for (const { option, values, negated } of optionsOf(words)) {
    const condition = read(option, values, words, family, sets);
    if (option === '--match-set' && values[1]?.startsWith('src') === true) asked.push(values[0]!);
    if (condition !== undefined) conditions.push(negated ? opposite(condition) : condition);
  }
  return { conditions, asked };
}

function opposite(condition: Condition): Condition {
  return (packet) => not(condition(packet), packet.family);
}

/** Undefined for what says nothing by itself. */
function read(
  option: string,
  values: readonly string[],
  words: readonly string[],
  family: Family,
  sets: Pick<IpSets, 'asks'>,
): Condition | undefined {
  const [value = ''] = values;
  const list = value.split(',');
  const here = (words_: readonly string[], what: (p: Packet) => string): Condition => {
    return (packet) => words_.includes(what(packet));
  };
  if (details.has(option)) return undefined;
  switch (option) {
    case '-m':
      if (foreign.has(value)) return () => false;
      if (value === 'tcp' || value === 'udp') return ({ protocol }) => protocol === value;
      if (value === 'rpfilter')
        return ({ interfaces }) =>
          interfaces.length === 1 ? !words.includes('--invert') : unknown('rpfilter');
      return modules.has(value) ? undefined : () => unknown(`-m ${value}`);
    case '-p':
      return ({ protocol }) => ['all', '0', ...protocolNames[protocol]].includes(value);
    case '-f':
      return () => false;
    case '-s': {
      const set = intervalsOf([value]);
      return () => set ?? unknown(`-s ${value}`);
    }
    case '-d': {
      const set = intervalsOf([value]);
      return (packet) =>
        set === undefined
          ? unknown(`-d ${value}`)
          : agreed(destinations(packet), (address) => holds(set, address), `-d ${value}`);
    }
    case '-i':
      return ({ interfaces }) => agreed(interfaces, (name) => fits(name, value), `-i ${value}`);
    case '-o':
      return ({ to }) => {
        if (to === 'here') return false;
        return to.through === undefined ? unknown(`-o ${value}`) : fits(to.through, value);
      };
    case '--dport':
    case '--dports':
      return ({ port }) => rangesOf(value).some(([low, high]) => low <= port && port <= high);
    case '--sport':
    case '--sports':
      return () => sourcePort(rangesOf(value), `${option} ${value}`);
    case '--ports':
      return ({ port }) => {
        const ranges = rangesOf(value);
        const isIt = ranges.some(([low, high]) => low <= port && port <= high);
        return isIt ? true : sourcePort(ranges, `--ports ${value}`);
      };
    case '--tcp-flags': {
      const [mask, set] = values.map((flags) => flagsOf(flags.split(',')));
      return ({ protocol }) => {
        if (protocol !== 'tcp') return false;
        return mask === undefined || set === undefined
          ? unknown(`--tcp-flags ${values.join(' ')}`)
          : (synFlag & mask) === set;
      };
    }
    case '--syn':
      return ({ protocol }) => protocol === 'tcp';
    case '--ctstate':
    case '--state':
      return ({ tracked, translated }) =>
        list.includes(tracked ? 'NEW' : 'UNTRACKED') ||
        (translated !== undefined && list.includes('DNAT'));
    case '--ctstatus':
      return () => (list.includes('NONE') ? unknown('--ctstatus NONE') : false);
    case '--ctproto':
      return ({ protocol }) => protocolNames[protocol].includes(value);
    case '--ctorigdstport':
      return ({ originalPort }) =>
        rangesOf(value).some(([low, high]) => low <= originalPort && originalPort <= high);
    case '--ctdir':
      return () => value === 'ORIGINAL';
    case '--dst-type':
      return here(list, ({ to }) => (to === 'here' ? 'LOCAL' : 'UNICAST'));
    case '--src-type':
      return here(list, () => 'UNICAST');
    case '--match-set':
      return sets.asks(value, values[1] ?? '', family);
    case '--limit':
    case '--hashlimit':
    case '--hashlimit-upto':
    case '--connlimit-upto':
      return limit('below');
    case '--hashlimit-above':
    case '--connlimit-above':
      return limit('above');
    case '--set':
      return undefined;
    case '--update':
    case '--rcheck':
      return words.includes('--hitcount') ? limit('above') : () => unknown(`recent ${option}`);
    case '--mark': {
      const [wanted = NaN, mask = 0xffffffff] = value.split('/').map(Number);
      const isOfConnection = words.includes('connmark');
      return ({ mark, connectionMark }) => {
        const own = isOfConnection ? connectionMark : mark;
        if (own === undefined || Number.isNaN(wanted + mask)) return unknown(`--mark ${value}`);
        return (own & mask) >>> 0 === wanted;
      };
    }
    case '--src-range':
    case '--dst-range': {
      const set = rangeOf(value);
      if (set === undefined) return () => unknown(`${option} ${value}`);
      return option === '--src-range'
        ? () => set
        : (packet) =>
            agreed(destinations(packet), (address) => holds(set, address), `${option} ${value}`);
    }
    case '--pkt-type':
      return () => value === 'unicast';
    case '--dir': {
      const policy = words[words.indexOf('--pol') + 1];
      return () => (policy === 'none') === (value === 'in') && policy === 'none';
    }
    default:
      return () => unknown(option);
  }
}

function rangeOf(value: string): Intervals | undefined {
  const [first = '', last = first] = value.split('-');
  try {
    return intervalsOf(fromInterval(first, last));
  } catch (error) {
    if (error instanceof PrefixError) return undefined;
    throw error;
  }
}

function fits(name: string, pattern: string): boolean {
  return pattern.endsWith('+') ? name.startsWith(pattern.slice(0, -1)) : name === pattern;
}

/** `80,443` or `1024:65535`. */
function rangesOf(value: string): (readonly [number, number])[] {
  return value.split(',').map((part) => {
    const [low = 0, high = low] = part.split(':').map(Number);
    return [low, high];
  });
}
