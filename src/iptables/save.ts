/** Reads what iptables-save and ip6tables-save print (1.8.9, both variants): the one truthful view of the rules. */

/** A rule as it was saved, without `-A CHAIN` in front. */
export interface SavedRule {
  readonly chain: string;
  readonly text: string;
}

export interface SavedTable {
  readonly name: string;
  readonly chains: readonly {
    readonly name: string;
    /** Of a base chain; null for any other. */
    readonly policy: string | null;
  }[];
  /** In order. */
  readonly rules: readonly SavedRule[];
}

/** Comments and counters are left out; a table that the output does not have is not loaded. */
export function parseSave(text: string): readonly SavedTable[] {
  const tables: {
    name: string;
    chains: SavedTable['chains'][number][];
    rules: SavedRule[];
  }[] = [];
  for (const line of text.split('\n')) {
    const table = tables.at(-1);
    if (line.startsWith('*')) tables.push({ name: line.slice(1), chains: [], rules: [] });
    else if (line.startsWith(':')) {
      const [name, policy] = line.slice(1).split(' ');
      table?.chains.push({ name: name!, policy: policy === '-' ? null : (policy ?? null) });
    } else if (line.startsWith('-A ')) {
      const end = line.indexOf(' ', 3);
      const chain = end < 0 ? line.slice(3) : line.slice(3, end);
      table?.rules.push({ chain, text: end < 0 ? '' : line.slice(end + 1) });
    }
  }
  return tables;
}

/** The words of a saved rule; quotes and backslashes as xtables_save_string writes them. */
export function wordsOf(text: string): readonly string[] {
  return [...text.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map(
    ([, quoted, plain]) => plain ?? quoted!.replaceAll(/\\(.)/g, '$1'),
  );
}

/** Where `-j` or `-g` of a rule leads. */
export function targetOf(words: readonly string[]): string | undefined {
  const at = words.findIndex((word) => word === '-j' || word === '-g');
  return at < 0 ? undefined : words[at + 1];
}
