/** Records as somebody else, or another release, could have written them. */
import { createHash } from 'node:crypto';

/** As records are written: with sorted keys. */
const sorted = (content: unknown): string =>
  JSON.stringify(content, (_, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );

/** The text of a record with other content, and the digest of that. */
export function forged(record: string, change: (content: object) => object): string {
  const { kind, content } = JSON.parse(record) as { kind: string; content: object };
  const text = sorted(change(content));
  const digest = createHash('sha256').update(text).digest('hex');
  return `{"schema":1,"kind":"${kind}","digest":"${digest}","content":${text}}`;
}
