/** Takes over the real-IP keys that other hands set for Cloudflare's ranges alone. */
import { namesOnly } from '../../src/feed/published.ts';
import { network } from '../../src/prefix.ts';
import type { Desired, Observed, Ranges } from '../../src/renderer.ts';
import { flavours, keysOf } from './controllers.ts';
import { foreignValues } from './foreign.ts';
import type { IngressAround, IngressOwned } from './state.ts';

/** Then all of our keys go together: the header and the switch are nothing without the list. */
export function adopt(
  { owned, around }: Observed<IngressOwned, IngressAround>,
  desired: Desired,
  known: Ranges,
): Observed<IngressOwned, IngressAround> {
  const prefixes = believed(around, known);
  const values = foreignValues(keysOf(desired, around.target.flavour), around);
  if (prefixes.length === 0 || values.length === 0) return { owned, around };
  return {
    owned: { ...owned, strays: values.map((text) => ({ text, prefixes })) },
    around: { ...around, force: true },
  };
}

/** The prefixes of the list, where all of them are Cloudflare's; else none. */
export function believed(
  { data, target }: Pick<IngressAround, 'data' | 'target'>,
  known: Ranges,
): readonly string[] {
  const key = flavours[target.flavour].cidrs;
  const list = Object.hasOwn(data ?? {}, key) ? data![key]! : '';
  const words = list.split(',').map((word) => word.trim());
  const prefixes = words.flatMap((word) => network(word) ?? []);
  return prefixes.length === words.length && namesOnly(known, prefixes) ? prefixes : [];
}
