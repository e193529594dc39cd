/** The manual pages, as mandoc reads them. */
import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { describeLive } from './privileges.ts';

const folder = join(import.meta.dirname, '..', '..', 'man');

describeLive('manual', { programs: ['mandoc'] }, () => {
  test.for(readdirSync(folder))('%s has nothing that mandoc warns of', (name) => {
    const argv = ['-T', 'lint', '-W', 'warning,stop', join(folder, name)];
    // It ends with an error at a warning, and says it on standard output.
    expect(execFileSync('mandoc', argv, { encoding: 'utf8' })).toBe('');
    const text = execFileSync('mandoc', ['-T', 'ascii', join(folder, name)], { encoding: 'utf8' });
    // Bold is a letter printed twice.
    expect(text.replaceAll(/.\u0008/g, '')).toContain('DESCRIPTION');
  });
});
