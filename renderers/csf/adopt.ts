/** Takes over what scripts wrote into CSF's lists. */
import type { Desired, Observed, Ranges } from '../../src/renderer.ts';
import { isOn } from './conf.ts';
import { entryNames, leftovers, strayEntries, type CsfStray } from './leftovers.ts';
import { familyOf, lineOf, linesIn, times, without } from './lines.ts';
import { counter } from './running.ts';
import { names, type CsfAround, type CsfOwned } from './state.ts';

export function adopt(
  { owned, around }: Observed<CsfOwned, CsfAround>,
  desired: Desired,
  known: Ranges,
): Observed<CsfOwned, CsfAround> {
  const sets = isOn(around.conf, 'LF_IPSET');
  const found = names.map((name) =>
    leftovers(name, around.files[name] ?? '', desired, known, sets),
  );
  const left = found.flatMap((one) => one.left);
  const strays = found.flatMap((one) => one.strays);
  if (strays.length === 0) return { owned, around: { ...around, left } };
  return {
    owned: { ...owned, strays: withLoaded(strays, owned, around), theirs: around.files },
    around: { ...around, left },
  };
}

function withLoaded(
  strays: readonly Omit<CsfStray, 'loaded'>[],
  owned: CsfOwned,
  around: CsfAround,
): readonly CsfStray[] {
  const names = strays.flatMap((stray) => entryNames(stray));
  const beside = times([...without(around.others, names), ...linesIn(owned.allow).keys()]);
  const counters = { v4: counter(around, 'v4'), v6: counter(around, 'v6') };
  const counted = new Map<string, number>();
  return strays.map((stray) => ({
    ...stray,
    loaded: strayEntries(stray).flatMap((entry) => {
      const line = lineOf(entry);
      const n = counted.get(line) ?? beside(line);
      counted.set(line, n + 1);
      return counters[familyOf(entry)](entry) > n ? [line] : [];
    }),
  }));
}
