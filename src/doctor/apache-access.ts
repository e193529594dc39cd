/** Judges whom an Apache lets in, and whom it counts as one. */
import type { Directive } from '../../renderers/nginx/configuration.ts';
import { groupBy } from '../group.ts';
import { isEmpty, network, none, subtract } from '../prefix.ts';
import type { Ranges } from '../renderer.ts';
import { few } from '../text.ts';
import { accessList, headers, prefixes, type Rule, type View } from './access-list.ts';
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
  const isByAddress = ({ words }: Directive): boolean =>
    words[1] === 'ip' || words.slice(1, 3).join() === 'not,ip';
  const view = apacheView(directives, lists, ranges);
  const places = groupBy(all, ({ blocks }) => withoutAny(blocks).join());
  return [...places.values()].flatMap((list) => {
    const here = list.filter(isByAddress);
    if (here.length === 0) return [];
    const blocks = withoutAny(here[0]!.blocks);
    const mixed =
      blocks.some((block) => /^Require(?:Any|All|None)#/i.test(block)) ||
      list.length > here.length ||
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
    const rules = here.flatMap((one) => rulesOf(one, true));
    const shut = { allow: false, what: 'all', line: 'and nothing else is let in there' };
    return accessList([...rules, shut], view, ranges, shareOf(blocks), 'Apache');
  });
}

/** Any of several is what counts without <RequireAny> as well (mod_authz_core). */
function withoutAny(blocks: readonly string[]): readonly string[] {
  return /^RequireAny#/i.test(blocks.at(-1) ?? '') ? blocks.slice(0, -1) : blocks;
}

/** Order, Allow and Deny of mod_access_compat, which Debian loads. */
export function allows(
  directives: readonly Directive[],
  lists: Lists,
  ranges: Ranges,
): readonly Finding[] {
  const named = directives.filter(({ words }) => /^(?:order|allow|deny)$/i.test(words[0]!));
  const view = apacheView(directives, lists, ranges);
  return [...groupBy(named, ({ blocks }) => blocks.join()).values()].flatMap((list) => {
    const of = (name: string): readonly Directive[] =>
      list.filter(({ words }) => words[0]!.toLowerCase() === name);
    const [order] = of('order').slice(-1);
    const allowFirst = /^(?:allow,deny|mutual-failure)$/i.test(order?.words[1] ?? '');
    const allowed = of('allow').flatMap((one) => rulesOf(one, true));
    const denied = of('deny').flatMap((one) => rulesOf(one, false));
    const isShut = denied.some(({ what }) => what === 'all');
    // Then nobody gets in, whoever he is.
    if (allowFirst && isShut) return [];
    const shut = {
      allow: false,
      what: 'all',
      line: `and ${order?.words.join(' ')} refuses all others`,
    };
    const rules = [...allowed, ...denied, ...(allowFirst ? [shut] : [])];
    return accessList(rules, view, ranges, shareOf(list[0]!.blocks), 'Apache');
  });
}

/** After `Require ip`, `Require not ip`, `Allow from` and `Deny from`. */
function rulesOf(directive: Directive, allow: boolean): readonly Rule[] {
  const line = directiveText(directive);
  return directive.words
    .slice(2)
    .map((word) => ({ allow, what: word.toLowerCase() === 'all' ? 'all' : asCidr(word), line }));
}

/** `10.1` is 10.1.0.0/16, and a mask may be written out (mod_authz_host). */
function asCidr(word: string): string {
  if (/^\d+(?:\.\d+){0,2}\.?$/.test(word)) {
    const bytes = word.replace(/\.$/, '').split('.');
    return `${[...bytes, '0', '0', '0'].slice(0, 4).join('.')}/${bytes.length * 8}`;
  }
  const [address, mask = ''] = word.split('/');
  if (!/^\d+(?:\.\d+){3}$/.test(mask)) return network(word) ?? word;
  const bits = mask.split('.').map((byte) => Number(byte).toString(2).padStart(8, '0'));
  return network(`${address}/${bits.join('').replace(/0+$/, '').length}`) ?? word;
}

function shareOf(blocks: readonly string[]): 'all' | 'part' {
  return blocks.some((block) => /^(?:Location|Directory|Files)/i.test(block)) ? 'part' : 'all';
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
