/** Judges, at the end of a run, whether Cloudflare gets in by the rules of the whole host. */
import { setTimeout as sleep } from 'node:timers/promises';
import { readFileSync } from 'node:fs';
import { digest } from '../digest.ts';
import { extraOf, type Job } from '../engine/job.ts';
import { CfsyncError, exit, type ExitCode } from '../errors.ts';
import { filtersOf, type Filters } from '../filters/ask.ts';
import { glance, glanceOf, observeFilters, type FilterSeen } from '../filters/observe.ts';
import {
  cameIn,
  findingsOf,
  placeOf,
  type Door,
  type Finding,
  type Wish,
} from '../filters/verdict.ts';
import { described } from '../filters/words.ts';
import { host } from '../host/host.ts';
import { families, familyNames, merge } from '../prefix.ts';
import type { Judged } from '../report/run-report.ts';
import type { Settings } from '../settings/settings.ts';
import { readJudged, writeJudged, type Clean } from '../state/judged.ts';
import { escape } from '../text.ts';
import type { Context } from './context.ts';

/** Milliseconds after which a verdict that something is wrong is looked at again: others may be loading rules. */
const patience = 2000;

/** How many findings are named. */
const most = 3;

/** The rules of the host, or why they cannot be judged. */
export type Rules = Filters | string;

/** The rules as they are. */
export async function lookAtRules(): Promise<Rules> {
  const seen = await look();
  return typeof seen === 'string' ? seen : rulesOf(seen);
}

/** What the rules are read from, or why it cannot be had. */
async function look(): Promise<FilterSeen | string> {
  try {
    const seen = await observeFilters(host);
    return seen.nft === null
      ? 'nft is not installed, and without it not all rules can be seen'
      : seen;
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    return error.message;
  }
}

function rulesOf(seen: FilterSeen): Rules {
  const filters = filtersOf(seen);
  return filters.families.length === 0
    ? 'no interface with a default route has an address that others can reach'
    : filters;
}

/** Answers the digest of what a judgement follows from: of the rules by theirs, the release, and what is to be so. */
function basisFor(wish: Wish, { judgeIgnore }: Settings): (rules: string) => string {
  // It lies two folders above this file, and two above all of the built program.
  const release = digest(readFileSync(new URL('../../package.json', import.meta.url)));
  return (rules) => digest(JSON.stringify([release, rules, wish, judgeIgnore]));
}

/** What the backends are to do together. */
function wishOf(jobs: readonly Job[]): Wish {
  const doors = (tcp: readonly number[], udp: readonly number[]): readonly Door[] => [
    ...[...new Set(tcp)].map((port): Door => ({ protocol: 'tcp', port })),
    ...[...new Set(udp)].map((port): Door => ({ protocol: 'udp', port })),
  ];
  const all = jobs.map(({ desired }) => desired);
  const locked = all.filter(({ mode }) => mode === 'lockdown');
  return {
    ranges: merge(...all.map(({ ranges }) => ranges)),
    extra: merge(...jobs.map(extraOf)),
    open: doors(
      all.flatMap(({ tcpPorts }) => tcpPorts),
      all.flatMap(({ udpPorts }) => udpPorts),
    ),
    // In lockdown UDP is closed on all of the ports.
    locked: doors(
      locked.flatMap(({ tcpPorts }) => tcpPorts),
      locked.flatMap(({ tcpPorts, udpPorts }) => [...tcpPorts, ...udpPorts]),
    ),
  };
}

interface Found {
  readonly found: readonly Finding[] | string;
  /** Where nothing was found. */
  readonly clean?: Clean;
}

/**
 * What the rules come to, looked at a second time where something is wrong.
 * @param known What nothing was found in the last time.
 */
async function findNow(wish: Wish, settings: Settings, known: Clean | undefined): Promise<Found> {
  const basisOf = basisFor(wish, settings);
  if (known !== undefined && (await isStill(known, basisOf))) return { found: [], clean: known };
  for (let again = false; ; again = true) {
    const seen = await look();
    if (typeof seen === 'string') return { found: seen };
    const filters = rulesOf(seen);
    if (typeof filters === 'string') return { found: filters };
    const found = findingsOf(filters, wish, settings.judgeIgnore);
    if (found.length === 0) {
      const basis = basisOf(glanceOf(seen));
      return { found, ...(seen.asked && { clean: { basis, asked: seen.asked } }) };
    }
    if (again || !found.some(isWrong)) return { found };
    await sleep(patience);
  }
}

/** Whether nothing has changed since nothing was found. */
async function isStill(
  { basis, asked }: Clean,
  basisOf: (rules: string) => string,
): Promise<boolean> {
  try {
    const rules = await glance(host, asked);
    return rules !== undefined && basisOf(rules) === basis;
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    // The whole look says what is wrong.
    return false;
  }
}

function isWrong({ kind, small }: Finding): boolean {
  return !small && kind !== 'unclear';
}

/** One finding, as a sentence without its end. */
function told({ kind, doors, sources, rule, why }: Finding, { ranges }: Wish): string {
  const where = doorsText(doors);
  const concerned = families.filter((family) => sources[family].length > 0);
  const by = rule === undefined ? '' : `${escape(placeOf(rule))}: ${escape(rule.text)}`;
  if (kind === 'others') {
    const how = by === '' ? 'which nothing keeps them out of' : `let in by ${by}`;
    const over = concerned.map((family) => familyNames[family]).join(' and ');
    return `others get in on ${where} over ${over}, ${how}`;
  }
  const which = concerned.map((family) => described(sources[family], ranges, family)).join(', ');
  return kind === 'out'
    ? `Cloudflare is kept out of ${where} (${which}) by ${by}`
    : `whether Cloudflare gets in on ${where} (${which}) depends on ${escape(why ?? '')} in ${by}`;
}

/** `80, 443`, or `TCP 80, 443, UDP 443` where there is UDP. */
function doorsText(doors: readonly Door[]): string {
  const of = (protocol: Door['protocol']): string => {
    const ports = doors.filter((door) => door.protocol === protocol).map(({ port }) => port);
    return [...new Set(ports)].sort((a, b) => a - b).join(', ');
  };
  const [tcp, udp] = [of('tcp'), of('udp')];
  if (udp === '') return tcp;
  return tcp === '' ? `UDP ${udp}` : `TCP ${tcp}, UDP ${udp}`;
}

function judgedOf(found: readonly Finding[] | string, wish: Wish): Omit<Judged, 'backends'> {
  if (typeof found === 'string') return { verdict: 'not judged', reason: found, findings: [] };
  const findings = found.map((finding) => told(finding, wish));
  const [first] = found;
  if (first === undefined || first.small) return { verdict: 'in', reason: '', findings };
  const reason = first.kind === 'unclear' ? findings[0]! : '';
  return { verdict: first.kind, reason, findings };
}

/** How a judgement ends a run. */
export interface Ending {
  /** 2 where Cloudflare is kept out or others get in, unless that is only to be said. */
  readonly code: ExitCode;
  /** Whether Cloudflare got in before this run where it does not now. */
  readonly goesBack: boolean;
}

/**
 * Judges the rules as they are now, and says so.
 * @param jobs Packet filters, as they were brought; not empty.
 * @param before The rules before the first change of the run; undefined where nothing was changed.
 */
export async function judgeNow(
  context: Context,
  jobs: readonly Job[],
  before: Rules | undefined,
): Promise<Ending> {
  const { settings, output, record } = context;
  const wish = wishOf(jobs);
  const last = await readJudged(settings.stateDir);
  const { found, clean } = await findNow(wish, settings, last?.clean);
  const judged = judgedOf(found, wish);
  record.judged({ ...judged, backends: jobs.map(({ name }) => name) });
  const { verdict, reason } = judged;
  const isNew = last?.verdict !== verdict || last.reason !== reason;
  if (isNew || last.clean?.basis !== clean?.basis)
    output.notices(
      '',
      await writeJudged(settings.stateDir, { verdict, reason, ...(clean && { clean }) }),
    );
  const findings = typeof found === 'string' ? [] : found;
  const wrong = findings.filter(isWrong);
  const goesBack = typeof before === 'object' && cameIn(before, wrong);
  if (judged.verdict === 'not judged' || judged.verdict === 'unclear') {
    const text = `read back; not judged: ${judged.reason}`;
    if (isNew) output.tell(text);
    else output.note(text);
  } else if (goesBack)
    for (const finding of wrong.slice(0, most))
      output.error(`${told(finding, wish)}, and got in before; what this run changed goes back`);
  else if (wrong.length > 0)
    for (const finding of wrong.slice(0, most))
      output.warning(`${told(finding, wish)}; ${advice(finding)}`);
  else if (before === undefined) output.note(inForce(wish));
  else output.sentence(inForce(wish));
  for (const finding of findings.filter(({ small }) => small)) output.note(told(finding, wish));
  const isBad = wrong.length > 0 && settings.judge === 'fail';
  return { code: isBad ? exit.pending : exit.ok, goesBack };
}

function advice({ rule }: Finding): string {
  const accept =
    rule === undefined
      ? ''
      : `; judge-ignore: [${escape(placeOf(rule))}] in the configuration accepts it`;
  return `cfsync doctor says what to do${accept}`;
}

function inForce({ open, locked }: Wish): string {
  return `in force: Cloudflare reaches ${doorsText(open)}${locked.length === 0 ? '' : ', and nobody else does'}`;
}

/** Says, before a change, what the rules do as they are; no exit code follows. */
export async function warnOfNow(
  { settings, output }: Context,
  jobs: readonly Job[],
): Promise<void> {
  const filters = await lookAtRules();
  if (typeof filters === 'string') return;
  const wish = wishOf(jobs);
  const wrong = findingsOf(filters, wish, settings.judgeIgnore).filter(isWrong);
  for (const finding of wrong.slice(0, most))
    output.warning(`as the rules are now, ${told(finding, wish)}`);
}
