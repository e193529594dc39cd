/** Names a content by its hash, so that a step can say what it replaces. */
import { createHash } from 'node:crypto';
import type { FileStep } from './renderer.ts';

/** SHA-256, hexadecimal. */
export function digest(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

/** The step that writes over what was observed: `old` and `content` are texts, `null` where there is no file. */
export function fileStep({
  summary,
  path,
  old,
  content,
  mode,
  check,
}: Omit<FileStep, 'kind' | 'expect'> & { readonly old: string | null }): FileStep {
  const expect = old === null ? null : digest(old);
  return { kind: 'file', summary, path, content, mode, expect, ...(check && { check }) };
}
