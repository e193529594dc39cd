/** Writes a rule of a listing as `want` writes it. */
import { at as partOf, isWritable, type Expr, type Rule } from '../../src/filters/nft/listing.ts';
import { ports } from './tables.ts';

/** A rule in the syntax that `want` writes; anything else becomes a comment, and so differs from it. */
export function ruleText(rule: Rule): string {
  const words = rule.expr.map(exprText);
  if (rule.comment !== undefined)
    words.push(/^[ !#-~]*$/.test(rule.comment) ? `comment "${rule.comment}"` : undefined);
  return words.includes(undefined)
    ? `# a rule that cfsync did not write, handle ${rule.handle}`
    : words.join(' ');
}

function exprText(e: Expr): string | undefined {
  if ('counter' in e) return 'counter';
  for (const verdict of ['accept', 'drop', 'return']) if (verdict in e) return verdict;
  if ('jump' in e) {
    const target = partOf(e, 'jump', 'target');
    return typeof target === 'string' && isWritable(target) ? `jump ${target}` : undefined;
  }
  const left = partOf(e, 'match', 'left');
  const right = partOf(e, 'match', 'right');
  if (partOf(e, 'match', 'op') !== '==') return undefined;
  const protocol = partOf(left, 'payload', 'protocol');
  const field = partOf(left, 'payload', 'field');
  if (field === 'dport' && (protocol === 'tcp' || protocol === 'udp')) {
    const list = typeof right === 'number' ? [right] : partOf(right, 'set');
    return Array.isArray(list) && list.length > 0 && list.every(isPort)
      ? `${protocol} dport ${ports(list)}`
      : undefined;
  }
  if (typeof right !== 'string') return undefined;
  if (field === 'saddr' && (protocol === 'ip' || protocol === 'ip6'))
    return right.startsWith('@') && isWritable(right.slice(1))
      ? `${protocol} saddr ${right}`
      : undefined;
  if (partOf(left, 'meta', 'key') === 'iifname')
    return /^[\w.@+*-]+$/.test(right) ? `iifname "${right}"` : undefined;
  if (JSON.stringify(left) === '{"fib":{"result":"type","flags":["daddr"]}}' && right === 'local')
    return 'fib daddr type local';
  return undefined;
}

function isPort(value: unknown): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 65_535;
}
