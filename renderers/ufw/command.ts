/** Writes rules as the commands that make them, and those that delete them. */
import { escape } from '../../src/text.ts';
import { isAnywhere, type Tuple } from './rules.ts';

/** The command that makes a rule, as `ufw show added` prints it (ufw 0.36.2, `get_command` in parser.py). */
export function commandOf(tuple: Tuple): string {
  return `ufw ${tuple.route ? 'route ' : ''}${wordsOf(tuple)}`;
}

/** The command that deletes it and nothing else: without `route`, ufw would delete another rule. */
export function deletionOf(tuple: Tuple): string {
  return `ufw ${tuple.route ? 'route ' : ''}delete ${wordsOf(tuple)}`;
}

function wordsOf(tuple: Tuple): string {
  const { action, log, protocol, ports, to, fromPorts, from, toApp, fromApp } = tuple;
  const { direction, input, output } = tuple;
  const words = [action];
  const isShort =
    isAnywhere(to) &&
    isAnywhere(from) &&
    fromPorts === 'any' &&
    fromApp + input + output === '' &&
    ports !== 'any';
  if (input !== '') words.push('in on', input);
  if (output !== '') words.push('out on', output);
  else if (direction === 'out') words.push('out');
  if (log !== '') words.push(log);
  if (isShort) {
    words.push(toApp !== '' ? appName(toApp) : protocol === 'any' ? ports : `${ports}/${protocol}`);
    return escape(words.join(' '));
  }
  const sides = [
    ['from', from, fromPorts, fromApp],
    ['to', to, ports, toApp],
  ] as const;
  for (const [word, address, port, app] of sides) {
    if (isAnywhere(address) && port === 'any' && app === '') continue;
    words.push(word, isAnywhere(address) ? 'any' : address);
    if (app !== '') words.push('app', appName(app));
    else if (port !== 'any') words.push('port', port);
  }
  if (!words.includes('from') && !words.includes('to') && input + output === '')
    words.push('to any');
  if (protocol !== 'any' && toApp === '' && fromApp === '') words.push('proto', protocol);
  return escape(words.join(' '));
}

function appName(name: string): string {
  return name.includes(' ') ? `'${name}'` : name;
}
