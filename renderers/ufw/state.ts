/** What of UFW is cfsync's, with the host around it as far as a plan needs it. */
import type { Family } from '../../src/prefix.ts';
import type { Owned } from '../../src/renderer.ts';
import type { Listing } from './chains.ts';
import type { UfwStray } from './leftovers.ts';
import { adminRules, type OwnBlocks, type RulesFile, type Tuple } from './rules.ts';

export interface FamilyState extends OwnBlocks {
  /** Whether the kernel has what the file says of ours; true where there is nothing to load. */
  readonly loaded: boolean;
  /** The names of all that stood in the file while it had strays. */
  readonly order?: readonly string[];
}

export interface UfwOwned extends Owned {
  readonly strays?: readonly UfwStray[];
  readonly v4: FamilyState;
  readonly v6: FamilyState;
}

export interface Perhaps<T> {
  readonly v4: T;
  /** Absent where the kernel has no IPv6. */
  readonly v6?: T;
}

export interface UfwAround {
  /** /etc/ufw/user.rules and user6.rules. */
  readonly texts: Readonly<Record<Family, string>>;
  /** What they say. */
  readonly files: Readonly<Record<Family, RulesFile>>;
  /** The same with ours in the places of what is taken over, where something is. */
  readonly adopted?: Readonly<Partial<Record<Family, RulesFile>>>;
  /** Rules for Cloudflare's ranges that cannot be taken over. */
  readonly left?: readonly Tuple[];
  /** ENABLED in ufw.conf. */
  readonly enabled: boolean;
  /** Whether UFW looks after IPv6: IPV6 in /etc/default/ufw, and whether the kernel has any. */
  readonly ipv6: 'yes' | 'no' | 'no kernel support';
  /** DEFAULT_INPUT_POLICY in /etc/default/ufw: `accept`, `drop` or `reject`. */
  readonly policy: string;
  /** As `iptables -S` and `ip6tables -S` tell it; absent while UFW is inactive. */
  readonly kernel?: Perhaps<Listing>;
  /** Docker's bridges. */
  readonly docker: readonly string[];
  readonly defaultRoutes: readonly string[];
}

export const families = ['v4', 'v6'] as const;
export const paths = { v4: '/etc/ufw/user.rules', v6: '/etc/ufw/user6.rules' } as const;
export const programs = { v4: 'iptables', v6: 'ip6tables' } as const;
export const labels = { v4: 'IPv4', v6: 'IPv6' } as const;

/** From here on the kernel's walk through the rules costs a new connection more than 20 us (530 ns for 44 rules). */
export const manyRules = 1000;

export function rulesIn(family: Family, around: UfwAround): readonly Tuple[] {
  return adminRules(rulesOf(family, around));
}

export function rulesOf(family: Family, { adopted, files }: UfwAround): RulesFile {
  return adopted?.[family] ?? files[family];
}
