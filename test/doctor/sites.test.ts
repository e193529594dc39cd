import { describe, expect, it } from 'vitest';
import { dumpedFiles, parse } from '../../renderers/nginx/configuration.ts';
import type { Directive } from '../../renderers/nginx/configuration.ts';
import { sitesOn } from '../../src/doctor/sites.ts';
import { dumped } from '../helpers/web.ts';

const nginx = (content: string, port = 443) =>
  sitesOn(port, {
    nginx: {
      running: true,
      refused: null,
      directives: parse(dumpedFiles(dumped(`http {\n${content}\n}`))).directives,
    },
    apache: null,
  });

const directive = (words: string, ...blocks: string[]): Directive => ({
  words: words.split(' '),
  at: 'site.conf:1',
  blocks,
});

const apache = (directives: readonly Directive[]) =>
  sitesOn(443, { nginx: null, apache: { running: true, refused: null, directives } });

const site = 'server { listen 443 ssl; server_name example.com www.example.com; }';

describe('the sites of nginx', () => {
  it.each([
    ['names', site, ['example.com', 'www.example.com'], true],
    [
      'a default server that rejects',
      `server { listen 443 ssl default_server; server_name x.example; ssl_reject_handshake on; } ${site}`,
      ['example.com', 'www.example.com'],
      true,
    ],
    [
      'rejecting for all but one',
      `ssl_reject_handshake on; server { listen 443 ssl; server_name a.example; } server { listen 443; ssl_reject_handshake off; server_name b.example; }`,
      ['b.example'],
      true,
    ],
    [
      'wildcards',
      'server { listen [::]:443 ssl; server_name *.a.example .b.example www.c.*; }',
      ['www.a.example', 'b.example', 'www.c.com'],
      true,
    ],
    [
      'what cannot be asked for',
      'server { listen 443 ssl; server_name ~^(?<a>.+)\\.example$ _ "" $hostname 192.0.2.1 localhost; }',
      [],
      false,
    ],
    [
      'one of two that cannot',
      `server { listen *:443 ssl; server_name _; } ${site}`,
      ['example.com', 'www.example.com'],
      false,
    ],
    // The port of plain http, where the name only redirects.
    [
      'another port',
      `server { listen 80; server_name old.example; } ${site}`,
      ['example.com', 'www.example.com'],
      true,
    ],
    ['an address alone, which is port 80', 'server { listen 127.0.0.1; }', [], false],
    ['no TLS on the port', 'server { listen 443; server_name example.com; }', [], false],
    [
      'TLS of old',
      'server { listen 443; ssl on; server_name example.com; }',
      ['example.com'],
      true,
    ],
    [
      'a socket of unix',
      'server { listen unix:/run/s:443 ssl; server_name example.com; }',
      [],
      false,
    ],
    ['none but one that rejects', 'server { listen 443 ssl; ssl_reject_handshake on; }', [], true],
  ])('%s', (_, content, names, complete) => {
    expect(nginx(content)).toEqual({ names, complete });
  });
});

describe('the sites of Apache', () => {
  it('are the virtual hosts with TLS', () => {
    const [one, two, three] = ['VirtualHost#1', 'VirtualHost#3', 'VirtualHost#4'];
    expect(
      apache([
        directive('ServerName host.example'),
        directive('VirtualHost *:80'),
        directive('ServerName plain.example', one),
        directive('VirtualHost *:443'),
        directive('VirtualHost 192.0.2.1:443 [2001:db8::1]:443'),
        directive('ServerName https://example.com:443', two),
        directive('ServerAlias www.example.com *.example.org', two),
        directive('SSLEngine on', two),
        directive('VirtualHost *:443'),
        directive('ServerName off.example', three),
      ]),
    ).toEqual({ names: ['example.com', 'www.example.com', 'www.example.org'], complete: true });
  });

  it('take the switch of the server', () => {
    const directives = [
      directive('SSLEngine on'),
      directive('VirtualHost *:443'),
      directive('ServerName example.com', 'VirtualHost#1'),
    ];
    expect(apache(directives)).toEqual({ names: ['example.com'], complete: true });
  });
});
