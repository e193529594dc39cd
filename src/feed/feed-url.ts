/** Which addresses a feed may have: https, or http on this host (a mirror, a test). */

export function isAllowed(url: URL): boolean {
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url));
}

/** The URL parser has made every spelling of an IPv4 address into four decimal numbers. */
export function isLoopback(url: URL): boolean {
  return /^(127(\.\d+){3}|\[::1\]|localhost)$/.test(url.hostname);
}

/** A name or a password before the host (RFC 3986, section 3.2.1): it would end up in process lists and reports. */
export function hasUserinfo({ username, password }: URL): boolean {
  return username !== '' || password !== '';
}

/** For messages: a query often has a token, and what is no URL is shown as it is up to there. */
export function withoutQuery(text: string): string {
  const shown = text.replace(/^([a-z][a-z\d+.-]*:\/\/)[^/?#]*@/i, '$1...@');
  return shown.replace(/[?#].*$/s, '?...');
}

/** For messages: the path of a webhook is often a password. */
export function withoutSecret(url: string): string {
  return `${new URL(url).origin}/...`;
}
