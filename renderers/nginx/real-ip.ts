/** Says which connections have the visitor's address in an nginx configuration (ngx_http_realip_module). */
import { merge, network, none, parseRanges } from '../../src/prefix.ts';
import type { Ranges } from '../../src/renderer.ts';
import type { Directive } from './configuration.ts';

/** What a file of ours says at http level. */
export interface HttpLevel {
  readonly header: string;
  readonly ranges: Ranges;
}

/** Whose connections have the visitor's address in a block, with and without a file of ours. */
export type Replaced = (blocks: readonly string[], ours: HttpLevel | null) => Ranges;

/** What counts of a name in a block: what is said in the innermost block around it that says anything. */
export type Nearest = (name: string, blocks: readonly string[]) => readonly Directive[];

export function nearestOf(directives: readonly Directive[]): Nearest {
  const places = new Map<string, Directive[]>();
  for (const directive of directives) {
    const key = placeOf(directive.words[0]!, directive.blocks);
    const list = places.get(key) ?? [];
    places.set(key, list);
    list.push(directive);
  }
  return (name, blocks) => {
    for (let depth = blocks.length; depth > 0; depth--) {
      const found = places.get(placeOf(name, blocks.slice(0, depth)));
      if (found !== undefined) return found;
    }
    return [];
  };
}

export function replacing(directives: readonly Directive[]): Replaced {
  const nearest = nearestOf(directives);

  const believed = (blocks: readonly string[], ours: HttpLevel | null): Ranges => {
    const from = nearest('set_real_ip_from', blocks);
    const [header] = nearest('real_ip_header', blocks);
    // Without it nginx looks for X-Real-IP, which Cloudflare does not send.
    if (header === undefined && ours === null) return none;
    const words = from.flatMap((one) => network(one.words[1] ?? '') ?? []);
    const inherits = from.length === 0 || from[0]!.blocks.length === 1;
    return merge(parseRanges(words), inherits && ours !== null ? ours.ranges : none);
  };

  // The address is replaced with what the server says, before the location is known; only where that changed
  // nothing the location is asked as well (nginx 1.22.1).
  return (blocks, ours) => merge(believed(blocks.slice(0, 2), ours), believed(blocks, ours));
}

function placeOf(name: string, blocks: readonly string[]): string {
  return [name, ...blocks].join();
}
