/** Which addresses a feed may have: https, or http on this host (a mirror, a test). */

export function isAllowed(url: URL): boolean {
  return url.protocol === 'https:' || (url.protocol === 'http:' && isLoopback(url));
}

/** The URL parser has made every spelling of an IPv4 address into four decimal numbers. */
export function isLoopback(url: URL): boolean {
  return /^(127(\.\d+){3}|\[::1\]|localhost)$/.test(url.hostname);
}

/** For messages: the path of a webhook is often a password. */
export function withoutSecret(url: string): string {
  return `${new URL(url).origin}/...`;
}
