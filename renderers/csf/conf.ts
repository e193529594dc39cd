/** Reads csf.conf and what it says about ports. */

/** The settings by name. */
export type Conf = Readonly<Record<string, string>>;

/** As CSF reads it: `NAME = "value"`, one a line. */
export function parseConf(text: string): Conf {
  const settings = text.matchAll(/^[ \t]*(\w+)[ \t]*=[^"\n]*"(.*)"/gm);
  return Object.fromEntries([...settings].map(([, name, value]) => [name!, value!]));
}

/** Whether a setting is on, as Perl takes a text for true. */
export function isOn(conf: Conf, name: string): boolean {
  return !['', '0'].includes(conf[name] ?? '');
}

/** Those of the ports that a setting such as TCP_IN (`22,80,2000:3000`) opens. */
export function opened(conf: Conf, name: string, ports: readonly number[]): number[] {
  const ranges = (conf[name] ?? '')
    .replaceAll(/\s/g, '')
    .split(',')
    .filter((range) => range !== '')
    .map((range) => range.split(':').map(Number));
  return ports.filter((port) =>
    ranges.some(([first = 0, last = first]) => first <= port && port <= last),
  );
}
