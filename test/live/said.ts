/** Reads what the judge says of sources and ports back out of its sentences. */
import { holds } from '../../src/filters/conditions.ts';
import { fromPrefixes } from '../../src/filters/intervals.ts';
import { familyOf } from '../../src/prefix.ts';
import { bundled } from '../helpers/desired.ts';
import type { Protocol } from './lab.ts';

/** From where to where. */
export interface Way {
  readonly source: string;
  readonly protocol: Protocol;
  readonly port: number;
}

export interface Claim extends Way {
  readonly is: 'open' | 'closed';
}

export interface Said {
  readonly verdict: 'in' | 'out' | 'others' | 'unclear' | 'not judged';
  /** One for each finding, in the words of the judge; only the first three that are wrong. */
  readonly findings: readonly string[];
  readonly isCut: boolean;
}

/** Of all that a run with `--verbose` printed. */
export function readSaid(text: string): Said {
  const lines = text.split('\n').map((line) => line.replace(/^cfsync: (warning: )?/, ''));
  const findings = lines
    .filter((line) =>
      /^(Cloudflare is kept out of|others get in on|whether Cloudflare) /.test(line),
    )
    .map((line) => line.replace(/; cfsync doctor says what to do.*/, ''));
  const warnings = [...text.matchAll(/^cfsync: warning: (Cloudflare is kept|others get in)/gm)];
  const not = lines.find((line) => line.startsWith('read back; not judged: '));
  return {
    verdict:
      not !== undefined
        ? not.includes(': whether ')
          ? 'unclear'
          : 'not judged'
        : warnings.length === 0
          ? 'in'
          : warnings[0]![1]!.startsWith('others')
            ? 'others'
            : 'out',
    findings: not === undefined ? findings : [...findings, not.replace(/.*?judged: /, '')],
    isCut: warnings.length === 3,
  };
}

/** What is said of ranges; nothing of a way of which it is not said for certain. */
export function claimed(
  { verdict, findings, isCut }: Said,
  ways: readonly Way[],
  isUnknown: boolean,
): readonly Claim[] {
  if (verdict === 'not judged') return [];
  const read = findings.flatMap(readFinding);
  return ways.flatMap((way): Claim[] => {
    const about = read
      .filter(({ doors }) => doors.includes(`${way.protocol} ${way.port}`))
      .map((one) => ({ ...one, names: names(one.sources, way.source) }));
    if (about.some((one) => one.isOut && one.names === true)) return [{ ...way, is: 'closed' }];
    // Beside what is wrong, what is unclear is not said.
    const isSilent = isCut || (isUnknown && verdict !== 'in');
    return isSilent || about.some((one) => one.names !== false) ? [] : [{ ...way, is: 'open' }];
  });
}

interface Read {
  readonly isOut: boolean;
  readonly doors: readonly string[];
  readonly sources: readonly string[];
}

function readFinding(text: string): readonly Read[] {
  const found =
    /^(Cloudflare is kept out of|whether Cloudflare gets in on) ([^(]*) \((.*?)\) /.exec(text);
  if (found === null) return [];
  const [, words, where, sources] = found;
  const doors: string[] = [];
  let protocol = 'tcp';
  for (const part of where!.split(', ')) {
    const [, named, port] = /^(?:(TCP|UDP) )?(\d+)$/.exec(part)!;
    if (named !== undefined) protocol = named.toLowerCase();
    doors.push(`${protocol} ${port}`);
  }
  return [{ isOut: words!.startsWith('Cloudflare'), doors, sources: sources!.split(', ') }];
}

/** Whether a list of sources has this one; undefined where it does not say which it has. */
function names(list: readonly string[], source: string): boolean | undefined {
  const family = familyOf(source);
  const all = bundled[family].length;
  let isCut = false;
  for (const text of list) {
    const count = /^(\d+) of \d+ (IPv[46])/.exec(text);
    if (count !== null) {
      if (count[2] !== (family === 'v4' ? 'IPv4' : 'IPv6')) continue;
      if (Number(count[1]) === all) return true;
      isCut = true;
      continue;
    }
    const [address, more] = text.split(' and ');
    if (familyOf(address!) === family && holds(fromPrefixes([withLength(address!)]), source))
      return true;
    isCut ||= more !== undefined;
  }
  return isCut ? undefined : false;
}

function withLength(text: string): string {
  return text.includes('/') ? text : `${text}/${text.includes(':') ? 128 : 32}`;
}
