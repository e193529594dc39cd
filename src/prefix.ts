/** Prefix arithmetic: parse, print, sort, merge, subtract and measure IPv4 and IPv6 prefixes. */
export {};
