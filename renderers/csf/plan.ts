/** Plans the steps from CSF as it is to CSF as it should be. */
import { fileStep } from '../../src/digest.ts';
import { CfsyncError, exit } from '../../src/errors.ts';
import type { FileStep, Observed, Step } from '../../src/renderer.ts';
import { count } from '../../src/text.ts';
import { addBlock, removeBlock } from './block.ts';
import { entryNames, strayEntries, withLines, withoutLines, type CsfStray } from './leftovers.ts';
import { chainOf, familyOf, lineOf, linesIn, ruleOf, times, without, type Lines } from './lines.ts';
import { counter, filters, isDown, program, styleOf } from './running.ts';
import { families, files, own, type CsfAround, type CsfOwned, type Name } from './state.ts';

export function plan(wanted: CsfOwned, observed: Observed<CsfOwned, CsfAround>): readonly Step[] {
  const { owned, around } = observed;
  const now = linesIn(owned.allow);
  const then = wanted.allow === owned.allow ? now : linesIn(wanted.allow);
  const kernel = kernelSteps(wanted, observed, now, then);
  const reloads =
    around.reload && (kernel.length > 0 || (isDown(around) && !wanted.ailing?.includes('csf')));
  const meanwhile =
    wanted.allow === null
      ? owned.allow
      : kernel.length === 0 || reloads
        ? wanted.allow
        : withLeaving(wanted.allow, now, then);
  // A line of theirs leaves csf.allow after its rules, which nobody would know otherwise.
  const allow = listText('allow', wanted, observed, kernel.length > 0 && !reloads);
  const lists: Step[] = [
    ...ownFile('allow', owned.allow, meanwhile),
    ...(wanted.ignore === null ? [] : ownFile('ignore', owned.ignore, wanted.ignore)),
    ...listSteps('allow', around.files.allow, allow),
    ...listSteps('ignore', around.files.ignore, listText('ignore', wanted, observed)),
  ];
  const rest: Step[] = [
    ...listSteps('allow', allow, listText('allow', wanted, observed)),
    ...ownFile('allow', meanwhile, wanted.allow),
    ...(wanted.ignore === null ? ownFile('ignore', owned.ignore, null) : []),
  ];
  const forLfd =
    (around.lfd === 'stale' && !wanted.ailing?.includes('lfd')) ||
    [...lists, ...rest].some((step) => step.kind === 'file' && step.path.endsWith('.ignore'));
  return [
    ...lists,
    ...(reloads ? [reloadStep(around)] : kernel),
    ...rest,
    // After a failed start lfd does not start either, nor does any command of csf but -r.
    ...(forLfd && (reloads || !isDown(around)) ? lfdSteps(around) : []),
  ];
}

/** A rule that cfsync.allow does not name is nobody's: what goes stays in the file until it is gone. */
function withLeaving(text: string, now: Lines, then: Lines): string {
  const leaving = [...now.keys()].filter((line) => !then.has(line)).map((line) => `${line}\n`);
  return [text.endsWith('\n') ? text : `${text}\n`, ...leaving].join('');
}

function change(path: string, now: string | null, then: string | null): FileStep[] {
  if (now === then) return [];
  const verb = then === null ? 'delete' : now === null ? 'write' : 'rewrite';
  const summary = `csf: ${verb} ${path}`;
  return [fileStep({ summary, path, old: now, content: then, mode: 0o600 })];
}

function ownFile(name: Name, now: string | null, then: string | null): FileStep[] {
  return change(own[name], now, then);
}

/** What is to stand in csf.allow or csf.ignore; with `keep`, what goes of theirs still does. */
function listText(
  name: Name,
  wanted: CsfOwned,
  { around, owned }: Observed<CsfOwned, CsfAround>,
  keep = false,
): string | null {
  const now = around.files[name];
  const path = own[name];
  const lines = (strays: readonly CsfStray[] = []): string[] =>
    strays.filter((stray) => stray.list === name).map((stray) => stray.line);
  const before = wanted.theirs?.[name];
  let text = now;
  if (now !== null && wanted.strays !== undefined) {
    text = withLines(now, path, lines(wanted.strays), before ?? undefined);
    if (text === before) return text;
  } else if (now !== null && !keep) text = withoutLines(now, path, new Set(lines(owned.strays)));
  if (!wanted.blocks[name])
    return wanted.torn?.includes(name) && !owned.blocks[name]
      ? text
      : text && removeBlock(text, path);
  return owned.blocks[name] ? text : addBlock(text ?? '', path);
}

function listSteps(name: Name, now: string | null, then: string | null): Step[] {
  if (then !== now && now?.includes('\ufffd'))
    throw new CfsyncError(
      exit.failed,
      `csf: ${files[name]} has bytes that are not UTF-8, which a change would lose; nothing was changed; convert it, for instance with iconv -f latin1`,
    );
  return change(files[name], now, then);
}

/** One restore per family: everything changes at once, and what comes is there before what goes is gone. */
function kernelSteps(
  wanted: CsfOwned,
  { owned, around }: Observed<CsfOwned, CsfAround>,
  now: Lines,
  then: Lines,
): Step[] {
  const strays = wanted.strays ?? owned.strays ?? [];
  const listed = new Set((around.files.allow ?? '').split(/\r?\n/));
  const others = times(
    without(
      around.others,
      strays.filter(({ line }) => listed.has(line)).flatMap((stray) => entryNames(stray)),
    ),
  );
  const loadedOf = times(strays.flatMap((stray) => stray.loaded));
  const theirs = new Map(strays.flatMap(strayEntries).map((entry) => [lineOf(entry), entry]));
  return families.flatMap((family): Step[] => {
    if (around.disabled || !filters(around, family)) return [];
    const inKernel = counter(around, family);
    const style = styleOf(around, family);
    const given = wanted.loaded[family];
    // On the way back a rule that was there twice may stay so, and is not put there twice.
    const stay = given === null ? (line: string) => Number(then.has(line)) : times(given);
    const insert: string[] = [];
    const remove: string[] = [];
    for (const [line, entry] of new Map([...then, ...now, ...theirs])) {
      if (familyOf(entry) !== family) continue;
      const n = inKernel(entry);
      const kept = stay(line);
      const back = wanted.strays === undefined ? 0 : loadedOf(line);
      const most = others(line) + kept + back;
      const rule = `${chainOf[entry.direction]} ${ruleOf(entry, style)}`;
      const least = back > 0 ? most : Math.min(kept, 1);
      for (let i = n; i < least; i++) insert.push(`-I ${rule}`);
      // Of a rule that no line of ours names, only as many as theirs do.
      const isOurs = then.has(line) || now.has(line);
      const mayGo = isOurs ? n : wanted.strays === undefined ? loadedOf(line) : 0;
      const surplus = Math.min(n - most, mayGo);
      for (let i = 0; i < surplus; i++) remove.push(`-D ${rule}`);
    }
    if (insert.length + remove.length === 0) return [];
    const name = program(around.conf, 'restore', family);
    // Each `-I` puts a rule at the top, so the last is found first: with 20,000 of them, in the order of the
    // file iptables 1.8.9 searched for minutes.
    const argv = [name, '-w', '10', '--noflush'] as const;
    const stdin = ['*filter', ...insert, ...remove.reverse(), 'COMMIT', ''].join('\n');
    return [
      {
        kind: 'run',
        summary: `csf: ${family === 'v4' ? 'iptables' : 'ip6tables'}, ALLOWIN and ALLOWOUT: ${count(insert.length, 'rule')} come, ${remove.length} go`,
        command: { argv, stdin, timeout: 120_000 },
        check: { argv: [...argv, '--test'], stdin, timeout: 120_000 },
      },
    ];
  });
}

function reloadStep(around: CsfAround): Step {
  if (around.foreign.length > 0 && !isDown(around))
    throw new CfsyncError(
      exit.failed,
      `csf: csf -r would delete what belongs to other programs: ${around.foreign.slice(0, 5).join('; ')}; nothing was changed; leave out --csf-reload, the running rules are brought up to date without it`,
      { detail: around.foreign.slice(5) },
    );
  const why = around.error === null ? '' : ` (its last start failed: ${around.error})`;
  return {
    kind: 'run',
    summary: `csf: csf -r${why}`,
    // Cut off in the middle it would leave the firewall half built.
    command: { argv: ['csf', '-r'], timeout: 600_000 },
  };
}

function lfdSteps({ lfd, disabled }: CsfAround): Step[] {
  if (lfd === 'stopped' || disabled) return [];
  return [
    {
      kind: 'run',
      summary: 'csf: csf --lfd restart',
      command: { argv: ['csf', '--lfd', 'restart'], timeout: 120_000 },
    },
  ];
}
