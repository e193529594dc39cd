/** Compares a text with a checked-in file, byte for byte. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect } from 'vitest';

const folder = join(import.meta.dirname, '..', 'golden');

/** UPDATE_GOLDEN=1 writes the file instead; look at the difference before it is committed. */
export function golden(path: string, text: string): void {
  const file = join(folder, path);
  if (process.env.UPDATE_GOLDEN === '1') {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
  expect(text, `differs from test/golden/${path}`).toBe(readFileSync(file, 'utf8'));
}
