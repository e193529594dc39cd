/** Names a content by its hash. */
import { createHash } from 'node:crypto';

/** SHA-256, hexadecimal. */
export function digest(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}
