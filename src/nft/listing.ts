/** Reads what `nft -j` prints: libnftables-json(5), nft 0.9.8 to 1.1.3; only the members that are used. */
import { isIPv4, isIPv6 } from 'node:net';
import { BackendError } from '../errors.ts';
import { fromInterval } from '../prefix.ts';

export type Family = 'ip' | 'ip6' | 'inet';

export interface ChainName {
  readonly family: Family;
  readonly table: string;
  readonly chain: string;
}

export type Expr = Readonly<Record<string, unknown>>;
export interface Chain extends ChainName {
  readonly base?: {
    readonly hook: string;
    readonly type: string;
    readonly prio: number;
    readonly policy: string;
  };
}
export interface Rule extends ChainName {
  readonly handle: number;
  readonly comment?: string;
  readonly expr: readonly Expr[];
}
export interface Listing {
  readonly tables: readonly {
    readonly family: string;
    readonly name: string;
    readonly flags: boolean;
  }[];
  readonly chains: readonly Chain[];
  readonly rules: readonly Rule[];
  readonly sets: readonly {
    readonly family: string;
    readonly table: string;
    readonly name: string;
    readonly type: unknown;
    readonly flags: unknown;
    readonly elem: readonly unknown[];
  }[];
}

export interface Match {
  readonly op: string;
  readonly left: Expr;
  readonly right: unknown;
}

/** The chain of accepts, in every table that cfsync attaches to. */
export const chainName = 'cfsync';

export function same(a: ChainName, b: ChainName): boolean {
  return a.family === b.family && a.table === b.table && a.chain === b.chain;
}

export function isOurJump(rule: Rule): boolean {
  return rule.expr.some((e) => {
    const to = (e.jump ?? e.goto) as { readonly target?: string } | undefined;
    return to?.target === chainName;
  });
}

export function parseListing(text: string): Listing {
  const listing = { tables: [], chains: [], rules: [], sets: [] } as {
    [K in keyof Listing]: Listing[K][number][];
  };
  let items: unknown;
  try {
    items = (JSON.parse(text) as { readonly nftables?: unknown }).nftables;
  } catch (cause) {
    throw new BackendError('broken', 'nftables: nft -j printed something that is not JSON', {
      cause,
    });
  }
  if (!Array.isArray(items))
    throw new BackendError('broken', 'nftables: nft -j printed no rule set');
  for (const item of items as readonly Readonly<Record<string, Record<string, any>>>[]) {
    const { table, chain, rule, set } = item;
    if (table)
      listing.tables.push({ family: table.family, name: table.name, flags: 'flags' in table });
    if (chain)
      listing.chains.push({
        family: chain.family,
        table: chain.table,
        chain: chain.name,
        ...(chain.hook === undefined
          ? {}
          : {
              base: { hook: chain.hook, type: chain.type, prio: chain.prio, policy: chain.policy },
            }),
      });
    if (rule)
      listing.rules.push({
        family: rule.family,
        table: rule.table,
        chain: rule.chain,
        handle: rule.handle,
        ...(rule.comment === undefined ? {} : { comment: rule.comment }),
        expr: rule.expr,
      });
    if (set)
      listing.sets.push({
        family: set.family,
        table: set.table,
        name: set.name,
        type: set.type,
        flags: set.flags ?? [],
        elem: set.elem ?? [],
      });
  }
  return listing;
}

/** The prefixes of a set or of a literal in a rule; undefined for a named set or anything else. */
export function elements(value: unknown): string[] | undefined {
  if (typeof value === 'string') {
    if (isIPv4(value)) return [`${value}/32`];
    return isIPv6(value) ? [`${value}/128`] : undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  if ('prefix' in value) {
    const { addr, len } = value.prefix as { addr: string; len: number };
    return [`${addr}/${len}`];
  }
  if ('range' in value) {
    const [first, last] = value.range as [string, string];
    return fromInterval(first, last);
  }
  if ('elem' in value) return elements((value.elem as { readonly val: unknown }).val);
  if (!('set' in value) || !Array.isArray(value.set)) return undefined;
  const all = value.set.map(elements);
  return all.includes(undefined) ? undefined : all.flatMap((one) => one!);
}
