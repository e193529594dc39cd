/** Prints what the doctor found: for a person, for programs, or in one line for a monitor. */
import { count, escape, jsonText, wrap } from '../text.ts';
import type { Finding } from './check.ts';
import type { Named, Report } from './examine.ts';

/** Columns of a report, whatever the terminal: it is mailed and pasted as well. */
const width = 80;

export function asText(report: Report): string {
  const { findings, checked, unchecked } = report;
  const lines = [escape(headline(report)), ''];
  for (const [i, finding] of findings.entries()) lines.push(...one(finding, i + 1), '');
  if (unchecked.length > 0) {
    lines.push('Could not be checked here:');
    // Many checks look at the same rules.
    for (const why of new Set(unchecked.map((one) => one.why))) {
      const names = unchecked.filter((one) => one.why === why).map(({ check }) => check);
      lines.push(...indented(`${names.join(', ')}: ${escape(why)}`, 2, 4));
    }
    lines.push('');
  }
  if (findings.length === 0 && checked.length > 0)
    lines.push(...indented(`Checked: ${checked.join(', ')}.`, 0, 0));
  while (lines.at(-1) === '') lines.pop();
  return `${lines.join('\n')}\n`;
}

/** What it comes to, in one line. */
function headline({ findings, checked, unchecked, failed }: Report): string {
  const at = (level: Finding['level']): number =>
    findings.filter((finding) => finding.level === level).length;
  const found = [
    ...(at('problem') > 0 ? [count(at('problem'), 'problem')] : []),
    ...(at('warning') > 0 ? [count(at('warning'), 'warning')] : []),
    ...(at('note') > 0 ? [count(at('note'), 'note')] : []),
  ];
  const made = [
    `${count(checked.length, 'check')} made`,
    ...(unchecked.length > 0 ? [`${unchecked.length} not possible here`] : []),
    ...(failed.length > 0 ? [`${failed.length} failed`] : []),
  ];
  return `${found.length === 0 ? 'Nothing found' : `Found ${found.join(', ')}`} (${made.join(', ')}).`;
}

function one(finding: Named, number: number): string[] {
  const { level, title, causes, evidence, command, advice, check } = finding;
  const error = causes.length === 0 ? '' : ` -> error ${causes.join(', ')}`;
  return [
    ...indented(`${number}. ${level.toUpperCase()}${error}: ${escape(title)} [${check}]`, 0, 3),
    ...evidence.flatMap((line) => indented(escape(line), 5, 9)),
    ...(advice === undefined ? [] : indented(escape(advice), 3, 3)),
    // Never broken: it is copied.
    ...(command === undefined ? [] : [`   To mend it:  ${escape(command)}`]),
  ];
}

function indented(text: string, first: number, rest: number): string[] {
  return wrap(text, width - Math.max(first, rest)).map(
    (line, i) => `${' '.repeat(i === 0 ? first : rest)}${line}`,
  );
}

/** docs/doctor.schema.json describes it. */
export function asJson({ checked, findings, unchecked, failed }: Report): string {
  const report = {
    schema: 1,
    checked,
    findings: findings.map(({ check, level, share, causes, title, evidence, command, advice }) => ({
      check,
      level,
      share,
      causes,
      title,
      evidence,
      command: command ?? null,
      advice: advice ?? null,
    })),
    unchecked,
    failed: failed.map(({ check, error }) => ({ check, error: messageOf(error) })),
  };
  return jsonText(report, 2);
}

/** One line as monitors of Nagios' kind read it, with the level that the journal gives it. */
export function asProbe(report: Report): {
  readonly level: 'error' | 'warning' | 'info';
  readonly text: string;
} {
  const { findings, failed } = report;
  const [first, ...rest] = findings.filter(({ level }) => level !== 'note');
  const [broken] = failed;
  if (broken !== undefined)
    return {
      level: 'error',
      text: `UNKNOWN: check ${broken.check} failed: ${escape(messageOf(broken.error))}`,
    };
  if (first === undefined) return { level: 'info', text: `OK: ${headline(report)}` };
  const error = first.causes.length === 0 ? '' : ` (error ${first.causes.join(', ')})`;
  const more = rest.length === 0 ? '' : `; and ${rest.length} more`;
  const word = first.level === 'problem' ? 'CRITICAL' : 'WARNING';
  return {
    level: first.level === 'problem' ? 'error' : 'warning',
    text: `${word}: ${escape(first.title)}${error}${more}; cfsync doctor tells more`,
  };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
