/** Judges whom an Apache lets in, and whom it counts as one. */
import type { Directive } from '../../renderers/nginx/configuration.ts';
import { isEmpty, none, subtract } from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import { few } from '../text.ts';
import { accessList, headers, prefixes, type View } from './access-list.ts';
import type { Finding } from './check.ts';
import { directiveText } from './configuration.ts';

/** The text of each list of proxies that the configuration names. */
export type Lists = Readonly<Record<string, string>>;

export function apacheView(directives: readonly Directive[], lists: Lists, ranges: Ranges): View {
  const named = (pattern: RegExp): readonly Directive[] =>
    directives.filter(({ words }) => pattern.test(words[0]!));
  const header = named(/^RemoteIPHeader$/i).at(-1);
  if (header === undefined) return { edge: ranges, why: 'there is no RemoteIPHeader' };
  if (!headers.includes((header.words[1] ?? '').toLowerCase()))
    return { edge: ranges, why: `${directiveText(header)}, which Cloudflare does not send` };
  const proxies = named(/^RemoteIP(?:Trusted|Internal)Proxy$/i).flatMap(({ words }) =>
    words.slice(1),
  );
  const files = named(/^RemoteIP(?:Trusted|Internal)ProxyList$/i).map(({ words }) => words[1]!);
  // Then every sender is believed.
  if (proxies.length + files.length === 0) return { edge: none, why: '' };
  const listed = files.flatMap((path) =>
    (lists[path] ?? '').split('\n').map((text) => text.replace(/#.*/, '').trim()),
  );
  const edge = subtract(ranges, prefixes([...proxies, ...listed]));
  return { edge, why: `mod_remoteip believes all but ${few([...edge.v4, ...edge.v6])}` };
}

export function requires(
  directives: readonly Directive[],
  lists: Lists,
  ranges: Ranges,
): readonly Finding[] {
  const all = directives.filter(({ words }) => words[0]!.toLowerCase() === 'require');
  const byAddress = all.filter(
    ({ words }) => words[1] === 'ip' || words.slice(1, 3).join() === 'not,ip',
  );
  const places = [...new Set(byAddress.map(({ blocks }) => blocks.join()))];
  const view = apacheView(directives, lists, ranges);
  return places.flatMap((place) => {
    const here = byAddress.filter(({ blocks }) => blocks.join() === place);
    const { blocks } = here[0]!;
    const mixed =
      blocks.some((block) => /^Require(?:Any|All|None)#/i.test(block)) ||
      all.some((one) => one.blocks.join() === place && !here.includes(one)) ||
      here.some(({ words }) => words[1] === 'not');
    if (mixed)
      return [
        {
          level: 'note',
          share: 'maybe',
          causes: [],
          title: 'A list of Require directives is not understood; is it about visitors?',
          evidence: here.slice(0, 3).map(directiveText),
        },
      ];
    const rules = here.flatMap((one) =>
      one.words.slice(2).map((what) => ({ allow: true, what, line: directiveText(one) })),
    );
    const shut = { allow: false, what: 'all', line: 'and nothing else is let in there' };
    const share = blocks.some((block) => /^(?:Location|Directory|Files)/i.test(block))
      ? ('part' as const)
      : ('all' as const);
    return accessList([...rules, shut], view, ranges, share, 'Apache');
  });
}

/** mod_evasive 1.10.1 counts by the address of the connection, with mod_remoteip as well; it knows no prefixes. */
export function evasive(directives: readonly Directive[], ranges: Ranges): readonly Finding[] {
  const [first] = directives.filter(({ words }) => /^DOS(?!Whitelist$)/i.test(words[0]!));
  if (first === undefined) return [];
  const spared = directives
    .filter(({ words }) => words[0]!.toLowerCase() === 'doswhitelist')
    .flatMap(({ words }) => words.slice(1))
    .flatMap((word) => {
      const [, fixed, stars] = /^((?:\d+\.)*?\d+)((?:\.\*)*)$/.exec(word) ?? [];
      const bytes = fixed?.split('.') ?? [];
      const wild = (stars?.length ?? 0) / 2;
      // What is not four octets matches nothing in mod_evasive, and is no prefix here.
      return [`${[...bytes, ...Array<string>(wild).fill('0')].join('.')}/${bytes.length * 8}`];
    });
  const counted = subtract({ v4: ranges.v4, v6: [] }, prefixes(spared));
  if (isEmpty(counted)) return [];
  return [
    {
      level: 'warning',
      share: 'all',
      causes: [],
      title:
        'mod_evasive counts all visitors behind one address of Cloudflare as one: they get 403',
      evidence: [
        directiveText(first),
        `no DOSWhitelist spares ${few(counted.v4)}; it takes addresses and 173.245.48.*, no prefixes`,
      ],
      command: 'a2dismod evasive && systemctl reload apache2',
    },
  ];
}
