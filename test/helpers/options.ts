/** Finds the options of a backend, by what its renderer asks for. */
import { loadRenderer } from '../../src/settings/load.ts';

export async function optionsOf(backend: string): Promise<readonly string[]> {
  const asked = new Set<string>();
  const renderer = await loadRenderer(backend, undefined, undefined);
  renderer.options(
    new Proxy(
      {},
      {
        get: (_, key) => {
          asked.add(String(key));
        },
      },
    ),
  );
  return [...asked].sort();
}
