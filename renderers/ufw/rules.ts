/** Reads and edits /etc/ufw/user.rules and user6.rules, in the form that ufw 0.36 to 0.36.2 writes. */
import { BackendError } from '../../src/errors.ts';
import { asPrefix, type Family } from '../../src/prefix.ts';
import { escape } from '../../src/text.ts';
import { hinders, parseRule, prefixText, type Claim } from './chains.ts';

/** A rule as ufw knows it: what stands in a `### tuple ###` line. */
export interface Tuple {
  /** `allow`, `deny`, `reject` or `limit`. */
  readonly action: string;
  /** `log`, `log-all` or nothing. */
  readonly log: string;
  readonly route: boolean;
  readonly protocol: string;
  /** Destination ports, as in `80,443`, `6000:6007` or `any`. */
  readonly ports: string;
  readonly to: string;
  readonly fromPorts: string;
  readonly from: string;
  /** Application profiles; empty for none. */
  readonly toApp: string;
  readonly fromApp: string;
  readonly direction: 'in' | 'out';
  /** Interfaces; empty for any. */
  readonly input: string;
  readonly output: string;
  /** UTF-8, in hexadecimal. */
  readonly comment: string;
}

/** A rule with its lines, or a line between rules. */
export interface Segment {
  /** The blank line that separates a rule from what is before it. */
  readonly lead: '' | '\n';
  readonly body: string;
  readonly tuple?: Tuple;
  /** Whether it is one of ours. */
  readonly own: boolean;
}

export interface RulesFile {
  /** Up to `### RULES ###`. */
  readonly head: string;
  readonly segments: readonly Segment[];
}

/** Our rules in one file. */
export interface OwnBlocks {
  /** How many rules of the admin's stand before our first one. */
  readonly at: number;
  /** Tuple line and rule, sorted. */
  readonly blocks: readonly string[];
}

const anywhere: Readonly<Record<Family, string>> = { v4: '0.0.0.0/0', v6: '::/0' };

/** The mark of our rules: `cfsync`, as ufw writes a comment. */
const mark = Buffer.from('cfsync').toString('hex');

const rulesLine = '### RULES ###\n';

export function parseRules(text: string, path: string): RulesFile {
  const start = text.indexOf(`\n${rulesLine}`) + 1;
  if (start === 0 || !/^\*filter$/m.test(text) || !/^COMMIT$/m.test(text))
    throw notAsWritten(path, 'it lacks *filter, ### RULES ### or COMMIT');
  const head = text.slice(0, start + rulesLine.length);
  if (head.includes('### tuple ###'))
    throw notAsWritten(path, 'it has a rule above the line ### RULES ###');
  const segments: Segment[] = [];
  const lines = text.slice(head.length).split(/(?<=\n)/);
  for (let i = 0; i < lines.length; i++) {
    const lead = lines[i] === '\n' && lines[i + 1]?.startsWith('### tuple ###') ? '\n' : '';
    if (lead !== '') i++;
    let body = lines[i]!;
    if (!body.startsWith('### tuple ###')) {
      segments.push({ lead, body, own: false });
      continue;
    }
    const tuple = parseTuple(body);
    if (tuple === undefined)
      throw notAsWritten(path, `ufw skips this line: ${escape(body.trim())}`);
    while (blockLine.test(lines[i + 1] ?? '')) body += lines[++i]!;
    segments.push({ lead, body, tuple, own: isOurs(tuple) });
  }
  return { head, segments };
}

/** The shipped file has no `### END RULES ###`; there the rules of `ufw-user-limit` follow at once. */
const blockLine = /^-A ufw6?-user-(logging-)?(input|output|forward) /;

function notAsWritten(path: string, why: string): BackendError {
  return new BackendError(
    'misconfigured',
    `ufw: ${path} is not as ufw writes it: ${why}; nothing was changed; put it right there (every ufw command that changes a rule writes the file anew and drops what it does not understand)`,
  );
}

/** As `_read_rules` of ufw 0.36.2 reads it. */
function parseTuple(line: string): Tuple | undefined {
  const [text = '', comment = ''] = line.slice('### tuple ###'.length).split(' comment=');
  const words = text.trim().split(/\s+/);
  if (words.length < 6 || words.length > 9) return undefined;
  const [act = '', protocol = '', ports = '', to = '', fromPorts = '', from = ''] = words;
  const apps = words.length >= 8 ? words.slice(6, 8) : ['-', '-'];
  const [toApp, fromApp] = apps.map((app) => (app === '-' ? '' : app.replaceAll('%20', ' ')));
  const route = act.startsWith('route:');
  const [action = '', log = ''] = act.replace(/^route:/, '').split('_');
  const where = words.length === 7 || words.length === 9 ? words.at(-1)! : 'in';
  const match = /^(?:in_(.+)!out_(.+)|in_(.+)|out_(.+)|in|out)$/.exec(where);
  if (match === null) return undefined;
  return {
    action,
    log,
    route,
    protocol,
    ports,
    to,
    fromPorts,
    from,
    toApp: toApp!,
    fromApp: fromApp!,
    direction: where.startsWith('out') ? 'out' : 'in',
    input: match[1] ?? match[3] ?? '',
    output: match[2] ?? match[4] ?? '',
    comment: comment.trim(),
  };
}

/** Ours are the rules with our comment that say who may reach which ports, whatever the admin made of the action. */
function isOurs(tuple: Tuple): boolean {
  const source = asPrefix(tuple.from);
  return (
    tuple.comment === mark &&
    tuple.protocol !== 'any' &&
    // Of the family of the file, and a prefix at all: an editor may have been there.
    source !== undefined &&
    tuple.to === anywhere[source.family] &&
    !isAnywhere(tuple.from) &&
    isPlain(tuple)
  );
}

/** From somebody to ports of this host, without interfaces, applications and source ports. */
function isPlain(tuple: Tuple): boolean {
  return (
    !tuple.route &&
    tuple.direction === 'in' &&
    tuple.input + tuple.output + tuple.toApp + tuple.fromApp === '' &&
    tuple.fromPorts === 'any' &&
    tuple.ports !== 'any' &&
    isAnywhere(tuple.to)
  );
}

export function isAnywhere(address: string): boolean {
  return address === anywhere.v4 || address === anywhere.v6;
}

/** What ufw takes for one and the same rule, of those that could be ours: action, log and comment do not count. */
export function identity(tuple: Tuple): string | undefined {
  return isPlain(tuple) ? `${tuple.protocol} ${tuple.ports} ${tuple.from}` : undefined;
}

/** The rules of the admin's, in order. */
export function adminRules(file: RulesFile): readonly Tuple[] {
  return file.segments.flatMap(({ tuple, own }) => (tuple && !own ? [tuple] : []));
}

export function ownBlocks(file: RulesFile): OwnBlocks {
  const own = file.segments.filter((s) => s.own);
  return {
    at: own.length === 0 ? 0 : rulesBefore(file.segments, file.segments.indexOf(own[0]!)),
    blocks: own.map((s) => s.body).sort(),
  };
}

/** All `-A` lines of the file. */
export function fileLines(file: RulesFile): readonly string[] {
  return file.segments.flatMap((s) => s.body.split('\n'));
}

/** One of our rules, as `ufw allow from SOURCE to any port PORTS proto PROTOCOL comment 'cfsync'` writes it. */
export function block(family: Family, protocol: string, ports: string, prefix: string): string {
  const source = prefix.replace(family === 'v4' ? /\/32$/ : /\/128$/, '');
  const chain = inputChain(family);
  const match = ports.includes(',') ? `-m multiport --dports ${ports}` : `--dport ${ports}`;
  return (
    `### tuple ### allow ${protocol} ${ports} ${anywhere[family]} any ${source} in comment=${mark}\n` +
    `-A ${chain} -p ${protocol} ${match} -s ${source} -j ACCEPT\n`
  );
}

export function inputChain(family: Family): string {
  return family === 'v4' ? 'ufw-user-input' : 'ufw6-user-input';
}

/** What our blocks are about, by protocol and ports. */
export function claimsOf(blocks: readonly string[]): readonly Claim[] {
  const claims = new Map<string, { protocol: string; ports: string; sources: string[] }>();
  for (const text of blocks) {
    const { protocol, ports, from } = tupleOf(text);
    const key = `${protocol} ${ports}`;
    const claim = claims.get(key) ?? { protocol, ports, sources: [] };
    claims.set(key, claim);
    claim.sources.push(prefixText(from));
  }
  return [...claims.values()];
}

/** The same, once it is asked for: few hosts have rules that may hinder ours. */
export function claimsLater(blocks: readonly string[]): () => readonly Claim[] {
  let known: readonly Claim[] | undefined;
  return () => (known ??= claimsOf(blocks));
}

export function tupleOf(text: string): Tuple {
  return parseTuple(text.split('\n')[0]!)!;
}

/** How many rules of the admin's there are before a place in the file. */
function rulesBefore(segments: readonly Segment[], index: number): number {
  return segments.slice(0, index).filter((s) => s.tuple && !s.own).length;
}

/**
 * The text of the file with these blocks for ours. What stays keeps its place: an admin may have put
 * rules before ours or between them. Where none stands, and `at` is given, our first one comes to stand there.
 */
export function edit(file: RulesFile, blocks: readonly string[], at?: number): string {
  const { segments } = file;
  const claims = claimsLater(blocks);
  const effects = segments.map((s) =>
    s.tuple === undefined || s.own ? undefined : effect(s, claims),
  );
  const whole = effects.indexOf('whole');
  const limit = whole < 0 ? segments.length : whole;
  const standing = segments.slice(0, limit).filter((s) => s.own);
  if (standing.length > 0) return editInPlace(file, blocks, standing);
  // Behind bans, before what would make our rules worthless: for that is what they are there for.
  const place = at ?? rulesBefore(segments, effects.slice(0, limit).lastIndexOf('part') + 1);
  return insertAll(file, blocks, Math.min(place, rulesBefore(segments, limit)));
}

/** What an admin's rule does to ours behind it. */
function effect({ body }: Segment, claims: () => readonly Claim[]): 'whole' | 'part' | undefined {
  const all = body.split('\n').map((line) => {
    const rule = parseRule(line);
    return rule?.chain.endsWith('-user-input') ? hinders(rule, claims) : undefined;
  });
  return all.includes('whole') ? 'whole' : all.find((one) => one !== undefined);
}

function editInPlace(
  { head, segments }: RulesFile,
  blocks: readonly string[],
  standing: readonly Segment[],
): string {
  const stay = new Set<Segment>();
  const missing = new Set(blocks);
  for (const segment of standing) if (missing.delete(segment.body)) stay.add(segment);
  let pending = [...missing];
  const out = [head];
  const add = (due: readonly string[]): void => {
    for (const body of due) out.push(`\n${body}`);
    pending = pending.slice(due.length);
  };
  const end = stay.size === 0 ? standing[0] : standing.at(-1);
  for (const segment of segments) {
    if (stay.has(segment)) add(pending.filter((body) => body < segment.body));
    if (stay.has(segment) || !segment.own) out.push(segment.lead + segment.body);
    if (segment === end) add(pending);
  }
  return out.join('');
}

function insertAll(
  { head, segments }: RulesFile,
  blocks: readonly string[],
  place: number,
): string {
  const others = segments.filter((s) => !s.own);
  const rules = others.filter((s) => s.tuple !== undefined);
  const after = place === 0 ? -1 : others.indexOf(rules[Math.min(place, rules.length) - 1]!);
  const texts = others.map((s) => s.lead + s.body);
  const ours = blocks.map((body) => `\n${body}`);
  return [head, ...texts.slice(0, after + 1), ...ours, ...texts.slice(after + 1)].join('');
}
