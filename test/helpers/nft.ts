/**
 * The JSON of nft as release 1.1.4 writes it: flags without brackets where there is one alone ("json: Print single set
 * flag as non-array" and two more for fib and synproxy, taken back in 1.1.5).
 */
export function withSingleFlags(json: string): string {
  return json.replaceAll(/"flags": \["([^"]*)"\]/g, '"flags": "$1"');
}

/** The same as a program that stands in front of the real nft. */
export const singleFlagsProgram = `#!/bin/sh
out=$(mktemp -p /run)
/usr/sbin/nft "$@" >"$out"
code=$?
sed 's/"flags": \\["\\([^"]*\\)"\\]/"flags": "\\1"/g' "$out"
rm "$out"
exit $code
`;
