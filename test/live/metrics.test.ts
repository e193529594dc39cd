/** The metrics file, as promtool reads it. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { exit } from '../../src/errors.ts';
import { parseMetrics } from '../helpers/exposition.ts';
import { listRenderer, runProgram } from '../helpers/program.ts';
import { describeLive, path } from './privileges.ts';

describeLive('metrics', { programs: ['promtool'] }, () => {
  const backend = 'lb.1_a-b';
  let folder: string;

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'cfsync-promtool-'));
    const section = { renderer: './list.mjs', path: join(folder, 'list') };
    const config = { metrics: join(folder, 'cfsync.prom'), backends: { [backend]: section } };
    writeFileSync(join(folder, 'list.mjs'), listRenderer);
    writeFileSync(join(folder, 'config.yaml'), JSON.stringify(config));
  });

  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  const promtool = (input: string) => {
    const env = { PATH: path };
    const ran = spawnSync('promtool', ['check', 'metrics'], { input, env, encoding: 'utf8' });
    return { status: ran.status, said: ran.stdout + ran.stderr };
  };

  test('promtool finds nothing to say about them, and would say what is wrong', async () => {
    const run = (...args: string[]) =>
      runProgram([...args, '--config', 'config.yaml'], {
        cwd: folder,
        env: { CFSYNC_STATE_DIR: join(folder, 'state') },
      });
    expect(await run('apply', '--source', 'bundled')).toMatchObject({ code: exit.ok, stderr: '' });
    writeFileSync(join(folder, 'list'), '');
    expect(await run('verify')).toMatchObject({ code: exit.pending, stderr: '' });
    const text = readFileSync(join(folder, 'cfsync.prom'), 'utf8');
    expect(Object.keys(parseMetrics(text))).toHaveLength(9);
    expect(parseMetrics(text).cfsync_drift!.samples).toEqual({ [`backend=${backend}`]: 1 });
    expect(promtool(text)).toEqual({ status: 0, said: '' });
    expect(promtool(text.replace('"', '')).status).not.toBe(0);
    expect(promtool(text.replace('# HELP cfsync_drift', '# NOTE cfsync_drift')).status).not.toBe(0);
  });
});
