/** Which names a web server's configuration has TLS for, by port. */
import type { Directive } from '../../renderers/nginx/configuration.ts';
import type { Servers } from './configuration.ts';

/** What the configurations say of one port. */
export interface Sites {
  /** Names that can be asked for, each once. */
  readonly names: readonly string[];
  /** Whether these are all: false where another program serves the port, or a site has no name that could be asked for. */
  readonly complete: boolean;
}

interface Site {
  readonly names: readonly string[];
  /** Turns away whoever asks for it. */
  readonly rejects: boolean;
}

export function sitesOn(port: number, { nginx, apache }: Servers): Sites {
  const sites = [
    ...nginxSites(nginx?.directives ?? [], port),
    ...apacheSites(apache?.directives ?? [], port),
  ];
  const asked = sites.filter(({ rejects }) => !rejects).map(({ names }) => names.flatMap(askable));
  return {
    names: [...new Set(asked.flat())],
    complete: sites.length > 0 && asked.every((names) => names.length > 0),
  };
}

/** A name that matches; none for a regular expression, a variable, or a name that is there to match nothing. */
function askable(name: string): readonly string[] {
  const plain = name
    .toLowerCase()
    .replace(/^\*\./, 'www.')
    .replace(/^\./, '')
    .replace(/\.\*$/, '.com');
  return /^[a-z\d_-]+(?:\.[a-z\d_-]+)+$/.test(plain) && !/\.\d+$/.test(plain) ? [plain] : [];
}

/** Servers of http that listen on the port, where one of them has TLS there: then all of the same socket have. */
function nginxSites(directives: readonly Directive[], port: number): readonly Site[] {
  const servers = new Map<string, Directive[]>();
  for (const directive of directives) {
    const [http, server] = directive.blocks;
    if (http?.startsWith('http#') !== true || server?.startsWith('server#') !== true) continue;
    if (directive.blocks.length === 2)
      servers.set(server, [...(servers.get(server) ?? []), directive]);
  }
  const named = (list: readonly Directive[], name: string): readonly Directive[] =>
    list.filter(({ words }) => words[0] === name);
  const here = [...servers.values()].filter((list) =>
    named(list, 'listen').some(({ words }) => portOf(words[1] ?? '') === port),
  );
  const hasTls = here.some(
    (list) =>
      named(list, 'ssl').some(({ words }) => words[1] === 'on') ||
      named(list, 'listen').some(
        ({ words }) => portOf(words[1] ?? '') === port && words.includes('ssl'),
      ),
  );
  if (!hasTls) return [];
  const outer = directives.filter(({ blocks }) => blocks.length === 1);
  return here.map((list) => ({
    names: named(list, 'server_name').flatMap(({ words }) => words.slice(1)),
    rejects:
      [...named(outer, 'ssl_reject_handshake'), ...named(list, 'ssl_reject_handshake')].at(-1)
        ?.words[1] === 'on',
  }));
}

/** Of the first word of `listen`: `443`, `*:443`, `[::]:443`; 80 where it is an address alone. */
function portOf(word: string): number | undefined {
  return word.startsWith('unix:') ? undefined : Number(/(?:^|:)(\d+)$/.exec(word)?.[1] ?? 80);
}

/** Virtual hosts of the port with `SSLEngine on`. */
function apacheSites(directives: readonly Directive[], port: number): readonly Site[] {
  const is = ({ words }: Directive, name: string): boolean => words[0]?.toLowerCase() === name;
  let engine = false;
  let host: { isHere: boolean; hasTls: boolean; names: string[] } | undefined;
  const hosts: (typeof host & object)[] = [];
  for (const directive of directives) {
    const values = directive.words.slice(1);
    const on = values[0]?.toLowerCase() === 'on';
    if (is(directive, 'virtualhost')) {
      const isHere = values.some((word) => word.endsWith(`:${port}`));
      host = { isHere, hasTls: engine, names: [] };
      hosts.push(host);
    } else if (!directive.blocks.some((block) => /^virtualhost#/i.test(block))) {
      if (is(directive, 'sslengine')) engine = on;
    } else if (is(directive, 'sslengine')) host!.hasTls = on;
    else if (is(directive, 'servername') || is(directive, 'serveralias'))
      host!.names.push(
        ...values.map((name) => name.replace(/^https?:\/\//i, '').replace(/:\d+$/, '')),
      );
  }
  return hosts
    .filter(({ isHere, hasTls }) => isHere && hasTls)
    .map(({ names }) => ({ names, rejects: false }));
}
