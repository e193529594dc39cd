/** Makes a renderer out of a backend that is only files: what they should say is enough. */
import { basename } from 'node:path';
import { fileStep } from '../digest.ts';
import { canonical, none, parseRanges } from '../prefix.ts';
import {
  defineRenderer,
  type Command,
  type Desired,
  type Host,
  type Notice,
  type Observed,
  type Owned,
  type Renderer,
  type Step,
} from '../renderer.ts';

interface OwnedFile {
  /** Absolute. */
  readonly path: string;
  readonly content: string;
}

export interface FilesOwned extends Owned {
  /** Sorted by path. */
  readonly files: readonly OwnedFile[];
  /** The processes that read the files when they started; only in what was observed. */
  readonly running?: Running;
}

export interface Running {
  /** Names the processes: another text after every reload. */
  readonly id: string;
  /** False when they started before the files got their present content. */
  readonly loaded: boolean;
}

/** What `look` found on a host. */
export interface Look<Around> {
  /** Where files of ours may be; also those that an earlier configuration left. */
  readonly paths: readonly string[];
  readonly around: Around;
  readonly running?: Running | undefined;
}

/** What a plan does to the files, by path; `null` deletes. */
export type Changes = ReadonlyMap<string, string | null>;

/** `want` is all that is needed; its paths must depend on the options alone, unless there is a `look`. */
export interface FileBackend<Options, Around = undefined> {
  readonly name: string;
  /** `list` unless given. */
  readonly kind?: 'filter' | 'list';
  options(raw: Readonly<Record<string, unknown>>): Options;
  want(
    desired: Desired,
    options: Options,
    around?: Around,
  ): { readonly files: readonly OwnedFile[]; readonly notices?: readonly Notice[] };
  /** Read-only, as `observe`. */
  look?(host: Host, options: Options): Promise<Look<Around>>;
  /** Asks the program whether it would take the files, before the first one is written. */
  check?(changes: Changes, around: Around): Command | undefined;
  /** Makes the program read the files again; the command must end with an error when that fails. */
  finish?(around: Around): { readonly summary: string; readonly command: Command } | undefined;
}

export function fileRenderer<Options, Around = undefined>(
  backend: FileBackend<Options, Around>,
): Renderer<Options, FilesOwned, Around> {
  const { name } = backend;
  const wanted = (desired: Desired, options: Options, around?: Around) => {
    const { files, notices = [] } = backend.want(desired, options, around);
    return { owned: owned(files), notices };
  };
  const look = async (host: Host, options: Options): Promise<Look<Around>> => {
    if (backend.look) return backend.look(host, options);
    const { files } = wanted(nobody, options).owned;
    return { paths: files.map((file) => file.path), around: undefined as Around };
  };
  return defineRenderer<Options, FilesOwned, Around>({
    api: 1,
    name,
    kind: backend.kind ?? 'list',
    options: (raw) => backend.options(raw),
    nothing: { ranges: none, files: [] },
    want: wanted,

    async observe(host, options) {
      const { paths, around, running } = await look(host, options);
      const files: OwnedFile[] = [];
      for (const path of new Set(paths)) {
        const content = await host.read(path);
        if (content !== undefined) files.push({ path, content });
      }
      return { owned: { ...owned(files), ...(running && { running }) }, around };
    },

    plan(wanted, observed) {
      return planFiles(backend, wanted, observed, []);
    },

    print({ files, running }) {
      return [
        ...files.map(({ path, content }) => ({ path: `${name}/${basename(path)}`, content })),
        ...(running?.loaded === false && files.length > 0
          ? [{ path: `${name}/running`, content: 'started before the files were last written\n' }]
          : []),
      ];
    },
  });
}

/** A file that is not ours alone. */
export interface Edit {
  readonly path: string;
  readonly old: string | null;
  readonly content: string;
}

/** @param edits Come after our files are written, before others of ours are deleted. */
export function planFiles<Around>(
  { name, check, finish }: Pick<FileBackend<never, Around>, 'name' | 'check' | 'finish'>,
  wanted: FilesOwned,
  { owned: now, around }: Observed<FilesOwned, Around>,
  edits: readonly Edit[],
): readonly Step[] {
  const own = [...changesOf(wanted, now)];
  const changes = new Map<string, string | null>([
    ...own.filter(([, content]) => content !== null),
    ...edits.map(({ path, content }) => [path, content] as const),
    ...own.filter(([, content]) => content === null),
  ]);
  const before = new Map(edits.map(({ path, old }) => [path, old]));
  const steps = [...changes].map(([path, content]): Step => {
    const old = before.has(path) ? before.get(path)! : contentOf(now, path);
    const verb =
      content === null ? 'delete' : before.has(path) && old !== null ? 'change' : 'write';
    return fileStep({ summary: `${name}: ${verb} ${path}`, path, old, content, mode: 0o644 });
  });
  const command = steps.length > 0 ? check?.(changes, around) : undefined;
  if (command) steps[0] = { ...steps[0]!, check: command };
  // On the way back: processes that were never reloaded still work with what they had.
  const untouched = wanted.running !== undefined && wanted.running.id === now.running?.id;
  const stale = steps.length > 0 || now.running?.loaded === false;
  const last = stale && !untouched ? finish?.(around) : undefined;
  if (last) steps.push({ kind: 'run', ...last, summary: `${name}: ${last.summary}` });
  return steps;
}

const nobody: Desired = { ranges: none, extra: none, tcpPorts: [80], udpPorts: [], mode: 'allow' };

/** The ranges are the prefixes that stand in the files. */
function owned(files: readonly OwnedFile[]): FilesOwned {
  const words = files.flatMap(
    ({ content }) => content.match(/(?<![0-9A-Fa-f:.])[0-9A-Fa-f:.]+\/\d+/g) ?? [],
  );
  const prefixes = words.filter((word) => canonical(word) !== undefined);
  return {
    ranges: parseRanges(prefixes),
    files: [...files].sort((a, b) => (a.path < b.path ? -1 : 1)),
  };
}

function contentOf(owned: FilesOwned, path: string): string | null {
  return owned.files.find((file) => file.path === path)?.content ?? null;
}

/** Files are written before others are deleted. */
function changesOf(wanted: FilesOwned, now: FilesOwned): Changes {
  const paths = [...wanted.files, ...now.files].map((file) => file.path);
  return new Map(
    [...new Set(paths)]
      .map((path) => [path, contentOf(wanted, path)] as const)
      .filter(([path, content]) => content !== contentOf(now, path)),
  );
}
