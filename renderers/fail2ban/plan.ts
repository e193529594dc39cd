/** Plans the edits of the files around a reload of the server. */
import { fileStep } from '../../src/digest.ts';
import { intersect, isEmpty, subtract } from '../../src/prefix.ts';
import type { Command, FileStep, Observed, Ranges, Step } from '../../src/renderer.ts';
import { escape } from '../../src/text.ts';
import { bansOn, list } from './bans.ts';
import { check } from './client.ts';
import { carries, compose, oddIn, staging } from './files.ts';
import { prefixesOf, prefixOf } from './ignoreip.ts';
import {
  client,
  configured,
  folder,
  keys,
  names,
  type Fail2banAround,
  type Fail2banOwned,
  type Files,
} from './state.ts';
import { editsOfTheirs } from './theirs.ts';

/** First line of a text that the server may not have loaded: a run that is cut off before the reload leaves it. */
const pending = '# Not loaded yet; cfsync apply or cfsync remove goes on from here. Before:\n';

export function plan(
  wanted: Fail2banOwned,
  observed: Observed<Fail2banOwned, Fail2banAround>,
): readonly Step[] {
  const { owned, around } = observed;
  const removal = wanted.early === null && wanted.late === null;
  const keeps = removal || carries(wanted, owned) || oddIn(owned.beside) !== undefined;
  const files = keeps ? wanted : compose(wanted.ranges, owned.beside);
  const theirs = editsOfTheirs(wanted, owned, around);
  const differ = keys.filter((key) => files[key] !== owned[key]);
  // On the way back none of theirs goes, not even what was written since then: see editsOfTheirs.
  const gone =
    wanted.strays === undefined ? (owned.strays ?? []).flatMap(({ values }) => values) : [];
  // Where nothing of ours changes, one of our files is marked all the same.
  const touched =
    differ.length > 0 || gone.length === 0 ? differ : keys.filter((key) => files[key] !== null);
  const changed = touched.sort((a, b) => Number(files[a] === null) - Number(files[b] === null));
  const reload =
    around.server !== null && (changed.length + theirs.length > 0 || lags(wanted, around));
  const edits = changed.map((key) => editOf(key, owned[key], files[key], reload, gone));
  const steps: Step[] = [...edits.flatMap(({ before }) => before), ...theirs];
  if (reload) steps.push(run('reload the configuration', ['reload']), ...keepExtras(owned, around));
  steps.push(...edits.flatMap(({ after }) => after));
  const [first] = steps;
  if (first !== undefined) {
    const check = checkOf(files, theirs, wanted.ranges, around);
    steps[0] = { ...first, check };
  }
  if (!removal) steps.push(...unban(wanted.ranges, around, reload));
  return steps;
}

/** Whether a running jail lacks wanted ranges that the files give it: a reload did not happen. */
function lags(
  wanted: Pick<Fail2banOwned, 'ranges' | 'server'>,
  { server, effective }: Fail2banAround,
): boolean {
  return (server ?? []).some(({ name, ignores }) => {
    const ranges = wanted.server?.[name] ?? wanted.ranges;
    const meant = intersect(prefixesOf(effective[name] ?? []), ranges);
    return !isEmpty(subtract(meant, prefixesOf(ignores)));
  });
}

/**
 * A reload forgets what was added by `fail2ban-client set JAIL addignoreip`, and that may be what keeps an
 * admin in. What a marked file had before is not of that kind.
 */
function keepExtras({ early, late }: Files, around: Fail2banAround): readonly Step[] {
  const before = [early, late].flatMap((text) => text?.match(/^# .*/gm) ?? []);
  return configured(around.server ?? [], around).flatMap(({ name, ignores }) => {
    const loaded = around.effective[name];
    if (loaded === undefined) return [];
    const known = [...loaded, ...before.flatMap((line) => line.split(' '))];
    const ours = new Set(known.map((entry) => prefixOf(entry) ?? entry));
    const extra = ignores.filter((entry) => !ours.has(prefixOf(entry) ?? entry));
    if (extra.length === 0) return [];
    const what = `jail ${name}: ignore ${extra.join(' ')} again, which was set at run time`;
    return [run(what, ['set', name, 'addignoreip', ...extra])];
  });
}

/** `unban` with a network lifts every ban inside it, also one that came after we looked. */
function unban(ranges: Ranges, around: Fail2banAround, reload: boolean): readonly Step[] {
  const { inside } = bansOn(ranges, around);
  if (inside.length === 0 && !reload) return [];
  const what =
    inside.length === 0 ? 'lift what is banned of the ranges by then' : `lift ${list(inside)}`;
  return [{ ...run(what, ['unban', ...ranges.v4, ...ranges.v6]), final: true, ifLeft: true }];
}

function run(what: string, words: readonly string[]): Extract<Step, { kind: 'run' }> {
  return {
    kind: 'run',
    summary: escape(`fail2ban: ${what}`),
    command: { argv: [client, ...words], timeout: 120_000 },
  };
}

/**
 * What was ours, or is taken over, is still in the server until the reload, and only the file says what it
 * was. So a file is deleted or replaced in two steps around the reload, the first leaves a mark.
 */
function editOf(
  key: keyof Files,
  old: string | null,
  text: string | null,
  reload: boolean,
  gone: readonly string[],
): { readonly before: readonly Step[]; readonly after: readonly Step[] } {
  const path = `${folder}/${names[key]}`;
  const write = (what: string, from: string | null, to: string | null): Step =>
    fileStep({ summary: `fail2ban: ${what}`, path, old: from, content: to, mode: 0o644 });
  const end = `${text === null ? 'delete' : 'write'} ${path}`;
  if ((old === null && gone.length === 0) || !reload)
    return { before: [write(end, old, text)], after: [] };
  const were = gone.length === 0 ? '' : `# ${gone.join(' ')}\n`;
  const marked = pending + (old === null ? '' : commented(old)) + were + (text ?? '');
  return {
    before: [write(`mark ${path} as not loaded yet`, old, marked)],
    after: [write(end, marked, text)],
  };
}

/** The text as comments, once and no deeper. */
function commented(text: string): string {
  const lines = text.replace(pending, '').trimEnd().split('\n');
  return lines.map((line) => `${line.replace(/^(?:# ?)*/, '# ').trimEnd()}\n`).join('');
}

function checkOf(
  files: Files,
  theirs: readonly FileStep[],
  ranges: Ranges,
  around: Fail2banAround,
): Command {
  const removal = files.early === null && files.late === null;
  const ours = removal ? [] : [...ranges.v4, ...ranges.v6];
  const edited = theirs.map(({ path, content }) => [path.slice(folder.length + 1), content]);
  return check({
    files: { ...staging(files), ...Object.fromEntries(edited) },
    jails: Object.fromEntries(around.jails.map((j) => [j.name, [...j.ignoreip, ...ours]])),
    running: around.server !== null,
    hint: around.alone
      ? 'the configuration would not load:'
      : `a jail refers to the ignoreip of ${names.early} by %(known/ignoreip)s; set ignoreip in [DEFAULT] of ${folder}/jail.local first`,
  });
}
