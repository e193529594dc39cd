import { describe, expect, it } from 'vitest';
import nginx from '../../../renderers/nginx/index.ts';
import type { Host } from '../../../src/renderer.ts';
import { fixture, hostWith, options, path, small, text } from './given.ts';

describe('the running nginx', () => {
  /** Workers 11 and 12 of master 10, started 100 s and 101 s after boot; the file changed `age` seconds before 200 s. */
  const stat = (pid: number, start: number): string =>
    `${pid} (nginx) S ${'0 '.repeat(18)}${start} 1 2\n`;
  const running = (age: number, second = 10_100): Host =>
    ({
      ...hostWith(fixture('package.txt'), {
        [path]: text(),
        '/run/nginx.pid': '10\n',
        '/proc/10/comm': 'nginx\n',
        '/proc/10/task/10/children': '11 12 13 14 ',
        '/proc/11/cmdline': 'nginx: worker process\0',
        '/proc/11/stat': stat(11, 10_000),
        '/proc/12/cmdline': 'nginx: worker process\0',
        '/proc/12/stat': stat(12, second),
        '/proc/13/cmdline': 'nginx: worker process is shutting down\0',
        '/proc/13/stat': stat(13, 5000),
        '/proc/14/cmdline': 'nginx: cache manager process\0',
        '/proc/14/stat': stat(14, 5000),
      }),
      async query(command) {
        if (command.argv[0] !== 'sh') return hostWith(fixture('package.txt')).query(command);
        const now = 1_700_000_000.25;
        return {
          code: 0,
          stdout: `${now}\n${stat(20, 20_000)}${(now - age).toFixed(9)}\n`,
          stderr: '',
        };
      },
    }) satisfies Host;
  const observe = (age: number, second?: number) => nginx.observe(running(age, second), options);

  it('uses the file when all of its workers are younger', async () => {
    const { owned } = await observe(150);
    expect(owned.running).toEqual({ id: '11@10000 12@10100', loaded: true });
  });

  it.each([
    ['older', 50, undefined],
    ['older in part', 99, 20_000],
  ])('is reloaded when its workers are %s', async (_what, age, second) => {
    const observed = await observe(age - 5, second);
    expect(observed.owned.running).toMatchObject({ loaded: false });
    const { owned } = nginx.want(small, options, observed.around);
    expect(nginx.plan(owned, observed)).toMatchObject([
      { kind: 'run', summary: 'nginx: reload and wait for new workers' },
    ]);
    expect(nginx.print(observed.owned)).toContainEqual({
      path: 'nginx/running',
      content: 'started before the files were last written\n',
    });
  });

  it('is not reloaded on the way back when it never was on the way there', async () => {
    const before = (await observe(150)).owned;
    const after = await observe(0);
    const files = [{ path, content: 'new\n' }];
    const steps = nginx.plan(before, { ...after, owned: { ...after.owned, files } });
    expect(steps.map((step) => step.kind)).toEqual(['file']);
    const reloaded = { ...after.owned, files, running: { id: '15@20000', loaded: true } };
    expect(nginx.plan(before, { ...after, owned: reloaded }).map((step) => step.kind)).toEqual([
      'file',
      'run',
    ]);
  });

  it('may be one whose workers cannot be seen', async () => {
    const host = running(0);
    const blind: Host = {
      ...host,
      read: async (file) => (file.endsWith('/children') ? undefined : host.read(file)),
    };
    const observed = await nginx.observe(blind, options);
    const { owned, notices } = nginx.want(small, options, observed.around);
    expect(nginx.plan(owned, observed)).toEqual([]);
    expect(notices[0]!.text).toContain('whether it uses the file is not known');
  });
});
