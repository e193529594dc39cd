/** What the tests of fail2ban begin with. */
import fail2ban from '../../../renderers/fail2ban/index.ts';
import type { Fail2banOwned } from '../../../renderers/fail2ban/state.ts';
import type { Desired, FileStep, Step } from '../../../src/renderer.ts';
import { desired } from '../../helpers/desired.ts';
import { apart, joined } from '../../helpers/fail2ban.ts';
import { recorded } from '../../helpers/host.ts';

export const early = '/etc/fail2ban/jail.d/00-cfsync.conf';
export const late = '/etc/fail2ban/jail.d/zz-cfsync.local';

/** The hosts that are described in test/fixtures/fail2ban/README.md. */
export type Fixture =
  | 'plain'
  | 'bans'
  | 'applied'
  | 'lagging'
  | 'known'
  | 'overridden'
  | 'carried'
  | 'sections'
  | 'empty'
  | 'leftovers'
  | 'broken'
  | 'stopped'
  | 'stale'
  | 'nobody';

/** @param files Those of ours that are there, in place of the captured ones. */
function hostOf(fixture: Fixture, files?: Readonly<Record<string, string>>) {
  const host = joined(apart(fixture));
  if (files === undefined) return recorded(host);
  const folder = '/etc/fail2ban/jail.d';
  const theirs = host.folders![folder]!.filter((name) => !name.includes('cfsync'));
  const ours = Object.keys(files).map((path) => path.slice(folder.length + 1));
  return recorded({ ...host, files, folders: { [folder]: [...theirs, ...ours].sort() } });
}

export const observe = (fixture: Fixture, files?: Readonly<Record<string, string>>) =>
  fail2ban.observe(hostOf(fixture, files), {});

export async function wantOn(fixture: Fixture, changes: Partial<Desired> = {}) {
  const observed = await observe(fixture);
  const { owned, notices } = fail2ban.want(desired(changes), {}, observed.around);
  return { owned, notices, observed, steps: fail2ban.plan(owned, observed) };
}

export const said = (steps: readonly Step[]): string[] =>
  steps.map(({ summary }) => summary.replace('fail2ban: ', ''));

export function fileSteps(steps: readonly Step[]): FileStep[] {
  return steps.filter((step) => step.kind === 'file');
}

export const isFinal = (step: Step): boolean => step.kind === 'run' && step.final === true;

export const text = (owned: Fail2banOwned): string =>
  fail2ban
    .print(owned)
    .map(({ path, content }) => `== ${path}\n${content}`)
    .join('');
