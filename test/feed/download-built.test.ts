/** The tests of the download once more, on the bundle: how packages are put together there is not how Node loads them. */
import { createRequire } from 'node:module';
import { vi } from 'vitest';

const built = createRequire(new URL('../../dist/src/', import.meta.url));
vi.doMock('../../src/feed/download.ts', () => built('./download.js') as object);
vi.doMock('../../src/errors.ts', () => built('./errors.js') as object);

await import('./download.test.ts');
