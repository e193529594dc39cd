/** Hosts whose files and programs say strange things, and all that a renderer does on them. */
import { inspect, isDeepStrictEqual } from 'node:util';
import * as fc from 'fast-check';
import { expect } from 'vitest';
import { isUndoable } from '../../src/engine/plan.ts';
import { exit } from '../../src/errors.ts';
import type { Desired, Owned, Renderer, Step } from '../../src/renderer.ts';
import { bundled, desired } from './desired.ts';
import { recorded, type Recorded } from './host.ts';
import { askedOrRefused, damaged, damagedJson, expectFit, readOrRefused } from './hostile.ts';

const outcomes = ['answers', 'files'] as const;

/** The text of an answer or of a file. */
interface Place {
  readonly host: Recorded;
  readonly kind: (typeof outcomes)[number];
  readonly name: string;
  readonly text: string;
}

function places(host: Recorded): Place[] {
  return outcomes.flatMap((kind) =>
    Object.entries(host[kind] ?? {}).map(([name, said]) => ({
      host,
      kind,
      name,
      text: typeof said === 'string' ? said : said.stdout,
    })),
  );
}

/** One of the hosts, with one answer or file that is damaged, gone, or an error. */
export function damagedHost(
  hosts: readonly Recorded[],
  more: readonly string[] = [],
): fc.Arbitrary<Recorded> {
  const all = hosts.flatMap(places).map((place) => {
    const text =
      /^[[{]/.test(place.text) && isJson(place.text)
        ? damagedJson(place.text, more)
        : damaged(place.text, more);
    return { place, text };
  });
  return fc.constantFrom(...all).chain(({ place, text }) => {
    const put = (said: unknown): Recorded => ({
      ...place.host,
      [place.kind]: { ...place.host[place.kind], [place.name]: said },
    });
    return fc.oneof(
      { weight: 20, arbitrary: text.map(put) },
      fc.constant(put(place.kind === 'files' ? undefined : { code: 1, stdout: '', stderr: '' })),
      text.map((stderr) =>
        put(place.kind === 'files' ? stderr : { code: 255, stdout: stderr, stderr }),
      ),
    );
  });
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** As `recorded`; a program that was not recorded fails, because a damaged answer leads to other questions. */
export function lenient(host: Recorded): ReturnType<typeof recorded> {
  const strict = recorded(host);
  return {
    ...strict,
    query: async (command) =>
      host.answers?.[command.argv.join(' ')] === undefined
        ? { code: 1, stdout: '', stderr: 'no such thing' }
        : strict.query(command),
  };
}

/** How far a renderer got. */
export interface Reach {
  observed: number;
  planned: number;
}

/**
 * Observes, wants and plans in both modes, adopts, removes, and goes back to what was observed. Each may be refused, and
 * nothing else may happen; what a plan hands to programs is text that they can be handed, and passes `check`.
 */
export async function runThrough<Options, State extends Owned, Around>(
  renderer: Renderer<Options, State, Around>,
  raw: Readonly<Record<string, unknown>>,
  host: Recorded,
  reach: Reach,
  check: (step: Step) => void = () => {},
): Promise<void> {
  const options = renderer.options(raw);
  const observed = await askedOrRefused(
    () => renderer.observe(lenient(host), options),
    exit.failed,
    exit.busy,
  );
  if (observed === undefined) return;
  reach.observed++;
  const refusals = [exit.usage, exit.failed, exit.refused, exit.busy];
  const plan = (wanted: State, now = observed): readonly Step[] => {
    const steps = readOrRefused(() => renderer.plan(wanted, now), ...refusals);
    if (steps === undefined) return [];
    for (const step of steps) {
      checkStep(step);
      check(step);
    }
    reach.planned++;
    return steps;
  };
  const wishes: readonly Partial<Desired>[] = [{}, { mode: 'lockdown', udpPorts: [443] }];
  for (const wish of wishes) {
    const wanted = readOrRefused(
      () => renderer.want(desired(wish), options, observed.around),
      ...refusals,
    );
    if (wanted === undefined) continue;
    plan(wanted.owned);
    renderer.print(wanted.owned);
  }
  const adopted = readOrRefused(() => renderer.adopt?.(observed, desired(), bundled), ...refusals);
  if (adopted !== undefined) {
    expectPlain(adopted.owned);
    plan(renderer.nothing, adopted);
    // The way back, on a host where none of it is left, and on one where all of it is.
    plan(adopted.owned, { owned: { ...adopted.owned, strays: [] }, around: adopted.around });
    plan(adopted.owned);
  }
  plan(renderer.nothing);
  // It may be recorded, and gone back to.
  expect(plan(observed.owned).filter(isUndoable)).toEqual([]);
  renderer.print(observed.owned);
  // It is written to the journal and read from there.
  expectPlain(observed.owned);
}

function expectPlain(value: unknown): void {
  if (!isDeepStrictEqual(JSON.parse(JSON.stringify(value)), value))
    expect.fail(`not plain JSON data: ${inspect(value)}`);
}

function checkStep(step: Step): void {
  expectPlain(step);
  expectFit(step.summary);
  const commands = step.kind === 'run' ? [step.command, step.check] : [step.check];
  for (const command of commands)
    for (const word of command?.argv ?? [])
      if (typeof word !== 'string' || word.includes('\0'))
        expect.fail(`not an argument of a program: ${inspect(word)}`);
}
