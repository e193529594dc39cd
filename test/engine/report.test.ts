import { describe, expect, it } from 'vitest';
import { none, parseRanges } from '../../src/prefix.ts';
import { reportJson, reportMarkdown } from '../../src/engine/report.ts';

const old = parseRanges(['104.16.0.0/12', '2405:b500::/32']);
const today = parseRanges(['104.16.0.0/13', '104.24.0.0/14', '2405:b500::/32', '2606:4700::/32']);
const file = { path: 'nftables/<a>.nft', before: 'one\ntwo ```\n', after: 'one\nthree\n' };

describe('Markdown', () => {
  it('has a verdict, a table, the address space, and the diffs in folds', () => {
    expect(reportMarkdown({ files: [file], before: old, after: today })).toBe(`\
**3 ranges added, 1 range removed: 262,144 IPv4 addresses no longer covered; 1 file differs.**

| | range | addresses |
|---|---|---:|
| added | \`104.16.0.0/13\` | 524,288 |
| added | \`104.24.0.0/14\` | 262,144 |
| added | \`2606:4700::/32\` | 2^96 |
| removed | \`104.16.0.0/12\` | 1,048,576 |

Newly covered: 2^96 IPv6 addresses (\`2606:4700::/32\`).

No longer covered: 262,144 IPv4 addresses (\`104.28.0.0/14\`).

<details><summary>nftables/&lt;a>.nft</summary>

\`\`\`\`diff
--- a/nftables/<a>.nft
+++ b/nftables/<a>.nft
@@ -1,2 +1,2 @@
 one
-two \`\`\`
+three
\`\`\`\`

</details>`);
  });

  it('tells an edit by hand from a change of the ranges', () => {
    expect(reportMarkdown({ files: [file, file], before: today, after: today })).toMatch(
      /^\*\*The ranges are the same, and 2 files differ: edited by hand, .*\*\*\n\n<details>/,
    );
  });

  it('says when other prefixes cover the same addresses', () => {
    const halves = { v4: ['104.16.0.0/13', '104.24.0.0/13'], v6: [] };
    const whole = { v4: ['104.16.0.0/12'], v6: [] };
    expect(reportMarkdown({ files: [file], before: halves, after: whole })).toContain(
      '**1 range added, 2 ranges removed, which cover the same addresses; 1 file differs.**',
    );
  });

  it('shows what cannot be seen, in a path and in a line, and leaves tabs', () => {
    const hostile = { path: 'a\u202e\nb', before: '', after: '\tx \u202e\u001b[2J\n' };
    const text = reportMarkdown({ files: [hostile], before: none, after: none });
    expect(text).toContain('<summary>a\\u202e\\u000ab</summary>');
    expect(text).toContain('\n+\tx \\u202e\\u001b[2J\n');
  });

  it('is one line when nothing differs', () => {
    expect(reportMarkdown({ files: [], before: none, after: none })).toBe('**No changes.**');
  });
});

it('JSON says what is in the lists, and what is covered', () => {
  expect(JSON.parse(reportJson({ files: [file], before: old, after: today }))).toEqual({
    schema: 1,
    changed: true,
    ranges: {
      added: { v4: ['104.16.0.0/13', '104.24.0.0/14'], v6: ['2606:4700::/32'] },
      removed: { v4: ['104.16.0.0/12'], v6: [] },
    },
    coverage: {
      gained: {
        v4: [],
        v6: ['2606:4700::/32'],
        addresses: { v4: '0', v6: '79228162514264337593543950336' },
      },
      lost: { v4: ['104.28.0.0/14'], v6: [], addresses: { v4: '262144', v6: '0' } },
    },
    files: [{ path: file.path, diff: expect.stringContaining('+three') }],
  });
});
