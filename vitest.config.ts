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

export default defineConfig({
  test: {
    testTimeout: 20_000,
    hookTimeout: 60_000,
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
          testTimeout: 60_000,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'traffic',
          include: counting,
          maxWorkers: 1,
          testTimeout: 60_000,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
