/** Names what of our keys is somebody else's. */
import { escape } from '../../src/text.ts';
import { isForeign, type Data, type IngressAround } from './state.ts';

/** Of our keys those that somebody else has set to something else, in words. */
export function foreignValues(wanted: Data, around: IngressAround): string[] {
  const { data, owners } = around;
  return Object.entries(wanted).flatMap(([key, value]) => {
    const there = data?.[key];
    if (there === undefined || there === value || !isForeign(key, around)) return [];
    const names = owners[key]?.map((name) => `"${escape(name)}"`).join(' and ');
    return [`${key} is "${escape(shorten(there))}", set by ${names ?? 'somebody else'}`];
  });
}

function shorten(value: string): string {
  return value.length > 60 ? `${value.slice(0, 60)}...` : value;
}
