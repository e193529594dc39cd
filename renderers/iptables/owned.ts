/** What of iptables belongs to cfsync, as plain data. */
import type { Family } from '../../src/prefix.ts';
import type { Owned } from '../../src/renderer.ts';
import type { TableName } from './names.ts';
import type { IptStray, Place } from './strays.ts';

interface IptChain {
  readonly name: string;
  /** As iptables-save prints them, without `-A CHAIN`. */
  readonly rules: readonly string[];
}

/** A rule of somebody else's chain that leads to ours. */
export interface Jump extends Place {
  readonly chain: string;
  readonly rule: string;
}

export interface IptTable {
  readonly family: Family;
  readonly name: TableName;
  readonly chains: readonly IptChain[];
  readonly jumps: readonly Jump[];
}

export interface IpSet {
  readonly name: string;
  /** `hash:net family inet`, and whatever else a foreign hand gave it. */
  readonly type: string;
  readonly prefixes: readonly string[];
}

export interface IptOwned extends Owned {
  readonly strays?: readonly IptStray[];
  /** IPv4 first, filter before raw. */
  readonly tables: readonly IptTable[];
  readonly sets: readonly IpSet[];
}
