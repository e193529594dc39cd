import { defineConfig } from 'vitest/config';

/** They count packets that are lost, and a busy machine loses some by itself: one after the other. */
const counting = [
  'adopt-*',
  'concurrency',
  'csf',
  'iptables',
  'lab',
  'nftables',
  'rollback-traffic',
  'ufw',
].map((name) => `test/live/${name}.test.ts`);

/** Milliseconds. They end what hangs, and say nothing of speed: nothing comes near them on a busy machine. */
const limits = {
  testTimeout: 300_000,
  hookTimeout: 300_000,
  expect: { poll: { timeout: 60_000 } },
};
const liveLimits = { testTimeout: 600_000, hookTimeout: 600_000 };

export default defineConfig({
  test: {
    ...limits,
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/live/**'],
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: 'live',
          include: ['test/live/**/*.test.ts'],
          exclude: counting,
          maxWorkers: 2,
          ...liveLimits,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'traffic',
          include: counting,
          maxWorkers: 1,
          ...liveLimits,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
