/** Reads Prometheus' text exposition format 0.0.4, strictly: what is not in the format is an error. */

export interface Metric {
  readonly help: string;
  readonly type: string;
  /** By label text, `family=ipv4`; empty without labels. */
  readonly samples: Readonly<Record<string, number>>;
}

const name = '[a-zA-Z_:][a-zA-Z0-9_:]*';
const value = String.raw`[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN`;

export function parseMetrics(text: string): Readonly<Record<string, Metric>> {
  if (text !== '' && !text.endsWith('\n')) throw new Error('the last line does not end');
  const found: Record<string, { help: string; type: string; samples: Record<string, number> }> = {};
  let family = '';
  let type: string | undefined;
  for (const line of text.split('\n').slice(0, -1)) {
    const [, helped, help = ''] = new RegExp(`^# HELP (${name}) (.*)$`).exec(line) ?? [];
    if (helped !== undefined) {
      if (Object.hasOwn(found, helped)) throw new Error(`${helped} stands in two places`);
      found[helped] = { help: unescape(help, /\\(.)/g), type: '', samples: {} };
      family = helped;
      type = undefined;
      continue;
    }
    const [, typed, kind = ''] =
      new RegExp(`^# TYPE (${name}) (counter|gauge|histogram|summary|untyped)$`).exec(line) ?? [];
    if (typed !== undefined) {
      if (typed !== family || type !== undefined) throw new Error(`out of place: ${line}`);
      found[family]!.type = type = kind;
      continue;
    }
    const [, of, labels, number] =
      new RegExp(`^(${name})(?:\\{(.*)\\})? (${value})$`, 's').exec(line) ?? [];
    if (of === undefined) throw new Error(`not in the format: ${line}`);
    if (of !== family || type === undefined) throw new Error(`${of} without its HELP and TYPE`);
    const key = labels === undefined ? '' : readLabels(labels);
    if (Object.hasOwn(found[of]!.samples, key)) throw new Error(`twice: ${line}`);
    found[of]!.samples[key] = Number(number);
  }
  return found;
}

function readLabels(text: string): string {
  const found: string[] = [];
  let rest = text;
  while (rest !== '') {
    const [all, label, raw] =
      /^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\["\\n])*)"(?:,|$)/.exec(rest) ?? [];
    if (all === undefined) throw new Error(`not labels: ${text}`);
    found.push(`${label}=${unescape(raw!, /\\(["\\n])/g)}`);
    rest = rest.slice(all.length);
  }
  return found.join(',');
}

function unescape(text: string, escapes: RegExp): string {
  return text.replaceAll(escapes, (_, c: string) => (c === 'n' ? '\n' : c));
}
