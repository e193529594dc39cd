/** Hosts with rule sets that nft printed, and what the renderer wants there. */
import type { NftAround } from '../../../renderers/nftables/around.ts';
import nftables from '../../../renderers/nftables/index.ts';
import type { Desired } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { recorded } from '../../helpers/host.ts';
import { listings, more as others } from '../../fixtures/nftables/listings.ts';

/** eth0 has the default route. */
export const files = {
  '/proc/net/route': 'Iface\tDestination\neth0\t00000000\t0\t0\t0\t0\t0\t00000000\t0\t0\t0\n',
};

/** The rule set that a host has, as nft printed it (see fixtures), and nothing else of note. */
export function hostWith(ruleset: keyof typeof listings, more: Record<string, string> = {}) {
  return recorded({
    answers: { 'nft -j -t list ruleset': listings[ruleset], ...others[ruleset], ...more },
    files,
  });
}

export async function wantOn(
  ruleset: keyof typeof listings,
  changes: Partial<Desired> = {},
  raw: Record<string, unknown> = {},
) {
  const options = nftables.options(raw);
  const observed = await nftables.observe(hostWith(ruleset), options);
  const { owned, notices } = nftables.want(desired(changes), options, observed.around);
  return { owned, notices, observed, steps: nftables.plan(owned, observed) };
}

/** A host on which there is nothing. */
export const nothingAround: NftAround = {
  rules: [],
  chains: [],
  owner: [],
  dormant: [],
  sets: [],
  shared: [],
  elements: [],
  debug: '',
  addresses: { v4: [], v6: [] },
  bridges: [],
  defaultRoutes: [],
  legacy: false,
  mismatches: [],
  accepted: [],
};
