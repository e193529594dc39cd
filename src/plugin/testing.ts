/** The test kit for renderers: a host in memory, and the promises that every renderer has to keep. */
import { isDeepStrictEqual } from 'node:util';
import { digest } from '../digest.ts';
import { equal, intersect, isEmpty, merge, parseRanges } from '../prefix.ts';
import type {
  Artifact,
  Command,
  Desired,
  Host,
  Observed,
  Outcome,
  Owned,
  Renderer,
  Step,
} from '../renderer.ts';

/** What a host in memory is made of; what is not here is not there. */
export interface Machine {
  /** Text by absolute path. */
  readonly files?: Readonly<Record<string, string>>;
  /** Folders without files of their own, by absolute path: their names. */
  readonly folders?: Readonly<Record<string, readonly string[]>>;
  /**
   * Plays the programs: gets the words of a command and what is on its standard input, and may change the
   * files. Undefined: there is no such program.
   */
  readonly program?: (
    argv: readonly string[],
    stdin: string,
    files: Map<string, string>,
  ) => Outcome | undefined;
}

/** A host in memory, and what was done to it. */
export interface MemoryHost extends Host {
  readonly files: Map<string, string>;
  /** Does what cfsync would do with a plan; throws where cfsync would fail. */
  perform(steps: readonly Step[]): void;
}

export function memoryHost({ files = {}, folders = {}, program }: Machine = {}): MemoryHost {
  const now = new Map(Object.entries(files));
  const run = ({ argv, stdin = '' }: Command): Outcome => {
    const outcome = program?.(argv, stdin, now);
    if (outcome === undefined) throw new Error(`there is no program for: ${argv.join(' ')}`);
    return outcome;
  };
  const must = (command: Command): void => {
    const { code, stderr } = run(command);
    if (code !== 0) throw new Error(`${command.argv.join(' ')} ended with code ${code}: ${stderr}`);
  };
  return {
    files: now,
    query: async (command) => run(command),
    read: async (path) => now.get(path),
    async list(path) {
      const inside = [...now.keys()]
        .filter((file) => file.startsWith(`${path}/`))
        .map((file) => file.slice(path.length + 1).split('/')[0]!);
      const names = [...new Set([...inside, ...(folders[path] ?? [])])];
      return names.length > 0 || Object.hasOwn(folders, path) ? names.sort() : undefined;
    },
    perform(steps) {
      for (const { check } of steps) if (check !== undefined) must(check);
      for (const step of steps) {
        if (step.kind === 'run') {
          must(step.command);
          continue;
        }
        const text = now.get(step.path);
        if ((text === undefined ? null : digest(text)) !== step.expect)
          throw new Error(`${step.path} is not what the plan expects to replace`);
        if (step.content === null) now.delete(step.path);
        else now.set(step.path, step.content);
      }
    },
  };
}

/** The ranges and ports of an ordinary host. */
export function exampleDesired(changes: Partial<Desired> = {}): Desired {
  return {
    ranges: parseRanges(['103.21.244.0/22', '173.245.48.0/20', '2400:cb00::/32']),
    extra: { v4: [], v6: [] },
    tcpPorts: [80, 443],
    udpPorts: [],
    mode: 'allow',
    ...changes,
  };
}

/**
 * Takes a renderer through its life on a host in memory, as the core does: apply, apply again, other ranges,
 * back, remove.
 * @param raw The backend's section of the configuration.
 * @throws Error that says which promise was broken, and where.
 */
export async function checkRenderer<Options, State extends Owned, Around>(
  renderer: Renderer<Options, State, Around>,
  machine: Machine = {},
  raw: Readonly<Record<string, unknown>> = {},
): Promise<void> {
  const options = freeze(renderer.options(freeze(raw)));
  const host = memoryHost(machine);
  const foreign = new Map(host.files);
  const first = exampleDesired();
  const second = exampleDesired({ ranges: parseRanges(['173.245.48.0/21', '2606:4700::/32']) });

  const look = async (): Promise<Observed<State, Around>> => {
    const before = new Map(host.files);
    const observed = freeze(await renderer.observe(host, options));
    same(new Map(host.files), before, 'observe changes nothing on the host');
    same(plain(observed.owned), observed.owned, 'the owned state is plain JSON data');
    return observed;
  };
  const plan = (wanted: State, observed: Observed<State, Around>): readonly Step[] => {
    const steps = renderer.plan(wanted, observed);
    same(renderer.plan(wanted, observed), steps, 'plan answers the same to the same');
    return steps;
  };
  const reach = async (wanted: State, what: string): Promise<void> => {
    host.perform(plan(wanted, await look()));
    const there = await look();
    same(plan(wanted, there), [], `${what} leaves nothing to do`);
    // It may be recorded, and gone back to.
    const self = plan(there.owned, there).filter((s) => s.kind === 'file' || s.final !== true);
    same(self, [], `what is observed after ${what} leads to itself by an empty plan`);
  };
  const want = async (desired: Desired): Promise<State> => {
    const { around } = await look();
    const { owned } = renderer.want(freeze(desired), options, around);
    same(renderer.want(desired, options, around).owned, owned, 'want answers the same to the same');
    same(plain(owned), owned, 'the wanted state is plain JSON data');
    freeze(owned);
    printed(renderer, owned);
    return owned;
  };

  renderer.want(first, options);
  const nothing = (await look()).owned;
  must(isEmpty(nothing.ranges), 'a host that cfsync never touched holds nothing');
  for (const desired of [first, second, first]) {
    const wanted = await want(desired);
    const before = (await look()).owned;
    await reach(wanted, 'apply');
    const { owned } = await look();
    must(
      equal(intersect(owned.ranges, desired.ranges), desired.ranges),
      'after apply, observe answers ranges with all that was desired',
    );
    must(equal(merge(owned.ranges), merge(wanted.ranges)), 'observed and wanted ranges agree');
    await reach(before, 'the way back');
    await reach(wanted, 'apply after the way back');
  }
  await reach(renderer.nothing, 'remove');
  same(host.files, foreign, 'remove leaves the files as if cfsync had never run');
}

function printed<State extends Owned>(
  renderer: { print(owned: State): readonly Artifact[] },
  owned: State,
): void {
  const texts = renderer.print(owned);
  same(renderer.print(owned), texts, 'print answers the same to the same');
  for (const { path, content } of texts) {
    must(!path.startsWith('/') && !path.split('/').includes('..'), `${path} stays inside a folder`);
    must(content === '' || content.endsWith('\n'), `${path} ends with a newline`);
  }
}

function must(holds: boolean, promise: string): void {
  if (!holds) throw new Error(`broken: ${promise}`);
}

function same(is: unknown, should: unknown, promise: string): void {
  if (isDeepStrictEqual(is, should)) return;
  throw new Error(`broken: ${promise}\nis:     ${show(is)}\nshould: ${show(should)}`);
}

function show(value: unknown): string {
  return JSON.stringify(value instanceof Map ? Object.fromEntries(value) : value);
}

function plain(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value));
}

/** A function that changes what it was given fails at once. */
function freeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const part of Object.values(value)) freeze(part);
  }
  return value;
}
