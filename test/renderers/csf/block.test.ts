import { describe, expect, it } from 'vitest';
import { addBlock, hasBlock, removeBlock } from '../../../renderers/csf/block.ts';
import { path } from './given.ts';

describe('the block', () => {
  it.each(['', '# csf.allow\n', 'a\nb', 'a\r\nb\r\n', '\n', '\n\n', 'a\n\n'])(
    'goes in once and comes out without a trace: %j',
    (text) => {
      const added = addBlock(text, path);
      expect(added.endsWith('\n')).toBe(true);
      expect(added.split('\n')).toContain(`Include ${path}`);
      expect(hasBlock(added, path)).toBe(true);
      expect(addBlock(added, path)).toBe(added);
      expect(removeBlock(added, path)).toBe(text);
    },
  );

  it('stays where it is when lines follow, and leaves them whole', () => {
    for (const text of ['a\n', 'a']) {
      const later = `${addBlock(text, path)}192.0.2.1 # x\n`;
      expect(hasBlock(later, path)).toBe(true);
      expect(removeBlock(later, path)).toBe('a\n192.0.2.1 # x\n');
    }
  });

  it('is put right when it is damaged', () => {
    const good = addBlock('a\n', path);
    for (const bad of [
      good.replace('Include', ' Include'),
      good.replace(/# END.*\n/, ''),
      good.replace(/Include .*\n/, ''),
      good.trimEnd(),
      good + good.slice(2),
      `${good}Include ${path}\n`,
      good.replace(path, `${path} `),
    ]) {
      expect(hasBlock(bad, path), bad).toBe(false);
      expect(addBlock(bad, path), bad).toBe(good);
      expect(removeBlock(bad, path), bad).toBe('a\n');
    }
  });
});
