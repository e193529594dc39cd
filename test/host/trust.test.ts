/** What root reads and loads, against another user who holds a part of the way to it. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  lchownSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { readConfig } from '../../src/settings/config.ts';
import { exit } from '../../src/errors.ts';
import { loadRenderer } from '../../src/settings/load.ts';
import { mustBeRunnable, probe } from '../../src/run/probe.ts';
import { readSettings } from '../../src/settings/settings.ts';
import { mustBeTrusted, readTrusted } from '../../src/host/trust.ts';

/** Between two calls to the system another process may do what it likes; the name is that of the next one. */
const other = vi.hoisted(() => ({ acts: (_call: string): void => {} }));

vi.mock('node:fs/promises', async (original) => {
  const real = await original<Record<string, unknown>>();
  const watched = ['lstat', 'stat', 'open', 'readFile', 'readlink', 'realpath'].map((name) => {
    const call = real[name] as (...args: unknown[]) => unknown;
    return [
      name,
      (...args: unknown[]) => {
        other.acts(name);
        return call(...args);
      },
    ];
  });
  const all = { ...real, ...Object.fromEntries(watched) };
  return { ...all, default: all };
});

let root: string;
const at = (name: string) => join(root, name);
const nobody = 65534;

/** A file or folder of the other user's; of a link the link itself. */
const give = (name: string) => lchownSync(at(name), nobody, nobody);
const file = (name: string, text = 'mode: allow\n') => writeFileSync(at(name), text);
const folder = (name: string) => mkdirSync(at(name), { recursive: true });
const link = (name: string, target: string) => symlinkSync(target, at(name));
/** As /tmp is. */
const shared = (name: string) => {
  folder(name);
  chmodSync(at(name), 0o1777);
};

beforeEach(() => {
  root = realpathSync(mkdtempSync(join(tmpdir(), 'cfsync-trust-')));
});

afterEach(() => {
  other.acts = () => {};
  rmSync(root, { recursive: true });
});

const asRoot = process.getuid?.() === 0;

const notRoots = (name: string) => `${name} does not belong to root`;

describe.runIf(asRoot)('the way to a file, as root,', () => {
  beforeEach(() => {
    folder('etc/cfsync');
    file('etc/cfsync/config.yaml');
    folder('home/u');
    give('home/u');
    file('home/u/own.yaml');
    give('home/u/own.yaml');
  });

  const accepted: readonly [what: string, make: () => void, path: string, real: string][] = [
    ['is a folder of root’s', () => {}, 'etc/cfsync/config.yaml', 'etc/cfsync/config.yaml'],
    [
      'is a link',
      () => link('etc/link', 'cfsync/config.yaml'),
      'etc/link',
      'etc/cfsync/config.yaml',
    ],
    [
      'is a folder that is a link, as /bin is',
      () => link('conf', 'etc/cfsync'),
      'conf/config.yaml',
      'etc/cfsync/config.yaml',
    ],
    [
      'is a folder that is a link to elsewhere',
      () => link('conf', at('etc/cfsync')),
      'conf/config.yaml',
      'etc/cfsync/config.yaml',
    ],
    [
      'is a chain of links',
      () => {
        link('one', 'etc');
        link('etc/two', '../one/cfsync');
        link('three', at('one/two'));
      },
      'three/config.yaml',
      'etc/cfsync/config.yaml',
    ],
    [
      'goes up after a link: to the folder above what it leads to',
      () => {
        folder('srv/deep/er');
        file('srv/deep/x.yaml');
        link('etc/down', '../srv/deep/er');
      },
      'etc/down/../x.yaml',
      'srv/deep/x.yaml',
    ],
    [
      'is a link of root’s in a folder such as /tmp',
      () => {
        shared('tmp');
        link('tmp/link', '../etc/cfsync/config.yaml');
      },
      'tmp/link',
      'etc/cfsync/config.yaml',
    ],
    [
      'is a file of root’s in a folder such as /tmp',
      () => {
        shared('tmp');
        file('tmp/x.yaml');
      },
      'tmp/x.yaml',
      'tmp/x.yaml',
    ],
  ];
  it.each(accepted)('is taken where it %s', async (_, make, path, real) => {
    make();
    expect(await mustBeTrusted(`${root}/${path}`, 'configuration')).toBe(at(real));
    expect(await readTrusted(`${root}/${path}`, 'configuration')).toBe('mode: allow\n');
  });

  const copy = 'copy it to a folder that only root can write to, such as /etc/cfsync';
  const refused: readonly [
    what: string,
    make: () => void,
    path: string,
    at: string,
    say: string,
  ][] = [
    ['is his folder', () => {}, 'home/u/own.yaml', 'home/u', copy],
    [
      'is a link in his folder to a file of root’s',
      () => link('home/u/link', at('etc/cfsync/config.yaml')),
      'home/u/link',
      'home/u',
      copy,
    ],
    [
      'is a link of root’s to a link in his folder',
      () => {
        link('home/u/link', at('etc/cfsync/config.yaml'));
        link('etc/link', '../home/u/link');
      },
      'etc/link',
      'home/u',
      copy,
    ],
    [
      'is a folder of root’s in his folder',
      () => {
        folder('home/u/roots');
        file('home/u/roots/x.yaml');
      },
      'home/u/roots/x.yaml',
      'home/u',
      copy,
    ],
    [
      'comes through his folder and out again',
      () => {},
      'home/u/../../etc/cfsync/config.yaml',
      'home/u',
      copy,
    ],
    [
      'is his link in a folder such as /tmp',
      () => {
        shared('tmp');
        link('tmp/link', '../etc/cfsync/config.yaml');
        give('tmp/link');
      },
      'tmp/link',
      'tmp/link',
      copy,
    ],
    [
      'is his link to a folder, in a folder such as /tmp',
      () => {
        shared('tmp');
        link('tmp/conf', '../etc/cfsync');
        give('tmp/conf');
      },
      'tmp/conf/config.yaml',
      'tmp/conf',
      copy,
    ],
    [
      'is his file in a folder of root’s',
      () => give('etc/cfsync/config.yaml'),
      'etc/cfsync/config.yaml',
      'etc/cfsync/config.yaml',
      'mend it with chown root ',
    ],
  ];
  it.each(refused)('is refused where it %s', async (_, make, path, component, say) => {
    make();
    for (const ask of [mustBeTrusted, readTrusted]) {
      const asked = ask(`${root}/${path}`, 'configuration');
      await expect(asked).rejects.toMatchObject({ code: exit.failed });
      await expect(asked).rejects.toThrow(
        `root: ${notRoots(at(component))}; nothing was changed; ${say}`,
      );
    }
  });

  it('is refused where others can write, and what is said leaves /tmp as it is', async () => {
    chmodSync(at('etc'), 0o775);
    const asked = mustBeTrusted(at('etc/cfsync'), 'folder');
    await expect(asked).rejects.toThrow(`mend it with chmod go-w ${at('etc')}`);
    shared('tmp');
    await expect(mustBeTrusted(at('tmp'), 'folder')).rejects.toThrow(
      `${at('tmp')} can be written by others; nothing was changed; copy it to`,
    );
  });

  it('that leads nowhere, or round, is an error with its name', async () => {
    link('etc/nowhere', 'no/file');
    await expect(mustBeTrusted(at('etc/nowhere'), 'plan')).rejects.toThrow(
      `cannot read the plan ${at('etc/nowhere')}: ENOENT`,
    );
    link('etc/a', 'b');
    link('etc/b', 'a');
    await expect(mustBeTrusted(at('etc/a'), 'plan')).rejects.toThrow('more than 40 symbolic links');
    link('etc/0', 'cfsync/config.yaml');
    for (let n = 1; n < 40; n++) link(`etc/${n}`, `${n - 1}`);
    expect(await mustBeTrusted(at('etc/39'), 'plan')).toBe(at('etc/cfsync/config.yaml'));
  });

  it.each(['folder', 'FIFO'])('does not end in a %s', async (what) => {
    if (what === 'folder') folder('etc/odd');
    else execFileSync('mkfifo', ['-m', '600', at('etc/odd')]);
    await expect(readConfig(at('etc/odd'))).rejects.toMatchObject({
      code: exit.failed,
      message: `configuration ${at('etc/odd')} is not a regular file; nothing was changed`,
    });
  });

  it('does not end in what has no end', async () => {
    file('etc/long');
    truncateSync(at('etc/long'), 2 ** 40);
    await expect(readConfig(at('etc/long'))).rejects.toThrow('has more than 128 MiB');
    // Nobody is told to change that for all.
    await expect(readConfig('/dev/zero')).rejects.toThrow(
      '/dev/zero can be written by others; nothing was changed; copy it to',
    );
  });
});

describe.runIf(asRoot)('another user who changes a link at any moment', () => {
  /** Shows root's file and his own in turn, from a call on; answers how often he had the opportunity. */
  function flip(targets: readonly [string, string], first: number, from: number): () => number {
    let calls = 0;
    const show = (target: string): void => {
      symlinkSync(target, at('home/u/.new'));
      renameSync(at('home/u/.new'), at('home/u/link'));
    };
    show(targets[first]!);
    other.acts = () => {
      if (calls++ === from) show(targets[1 - first]!);
    };
    return () => calls;
  }

  /** Every moment, in both directions, until the work is over before he acts. */
  async function everyMoment(targets: readonly [string, string], work: () => Promise<void>) {
    for (const first of [0, 1])
      for (let from = 0, calls = Infinity; from < calls; from++) {
        const count = flip(targets, first, from);
        await work();
        calls = count();
        other.acts = () => {};
      }
  }

  beforeEach(() => {
    folder('home/u');
    give('home/u');
    folder('etc');
  });

  it('never has his configuration read', async () => {
    file('etc/good.yaml');
    file('home/u/evil.yaml', 'on-failure: [sh, -c, id]\n');
    give('home/u/evil.yaml');
    let refusals = 0;
    await everyMoment([at('etc/good.yaml'), at('home/u/evil.yaml')], async () => {
      await expect(readConfig(at('home/u/link'))).rejects.toThrow(notRoots(at('home/u')));
      refusals++;
    });
    expect(refusals).toBeGreaterThan(4);
  });

  it('never has his renderer loaded', async () => {
    const toy = `export default {
      api: 1, name: 'toy', kind: 'list', nothing: {}, options: (raw) => raw,
      want: () => ({}), observe: async () => ({}), plan: () => [], print: () => [],
    };\n`;
    file('etc/good.mjs', toy);
    file('home/u/evil.mjs', `globalThis.isLoaded = true;\n${toy}`);
    give('home/u/evil.mjs');
    await everyMoment([at('etc/good.mjs'), at('home/u/evil.mjs')], async () => {
      const loading = loadRenderer('x', at('home/u/link'), at('etc/config.yaml'));
      await expect(loading).rejects.toThrow(notRoots(at('home/u')));
    });
    expect(globalThis).not.toHaveProperty('isLoaded');
  });
});

describe.runIf(asRoot)('what was checked is what is read, whoever replaces the file', () => {
  const replace = (call: string, owner: number) => {
    let left = 1;
    other.acts = (next) => {
      if (next !== call || left-- !== 1) return;
      file('new', 'the other\n');
      chownSync(at('new'), owner, owner);
      renameSync(at('new'), at('x'));
    };
  };

  it('before it is opened', async () => {
    file('x', 'the first\n');
    replace('open', nobody);
    await expect(readTrusted(at('x'), 'plan')).rejects.toThrow(notRoots(at('x')));
    rmSync(at('x'));
    file('x', 'the first\n');
    replace('open', 0);
    expect(await readTrusted(at('x'), 'plan')).toBe('the other\n');
  });

  it('by a link before it is opened', async () => {
    file('x', 'the first\n');
    other.acts = (next) => {
      if (next !== 'open') return;
      rmSync(at('x'));
      link('x', '/etc/hostname');
    };
    await expect(readTrusted(at('x'), 'plan')).rejects.toMatchObject({ code: 'ELOOP' });
  });

  it('after it was opened', async () => {
    file('x', 'the first\n');
    const { open } = await vi.importActual<typeof import('node:fs/promises')>('node:fs/promises');
    const handle = await open(at('x'));
    const prototype = Object.getPrototypeOf(handle) as { stat: () => unknown };
    await handle.close();
    const { stat } = prototype;
    const spy = vi.spyOn(prototype, 'stat').mockImplementation(function (this: unknown) {
      file('new', 'the other\n');
      renameSync(at('new'), at('x'));
      return stat.call(this);
    });
    expect(await readTrusted(at('x'), 'plan')).toBe('the first\n');
    expect(spy).toHaveBeenCalled();
    spy.mockRestore();
  });
});

describe.runIf(asRoot)('as root, in the hands of another user', () => {
  beforeEach(() => {
    folder('home/u');
    give('home/u');
    folder('etc');
  });

  const none = { file: undefined, settings: {}, backends: {}, place: () => '' };

  it('a state directory is refused, also one that is yet to be made', async () => {
    link('etc/state', '../home/u/state');
    for (const state of ['home/u/state', 'home/u/a/b', 'etc/state'])
      await expect(readSettings({ 'state-dir': at(state) }, none)).rejects.toThrow(
        `${notRoots(at('home/u'))}; nothing was changed; name one in a folder of root's with --state-dir`,
      );
    folder('disk/cfsync');
    rmSync(at('etc/state'));
    link('etc/state', at('disk/cfsync'));
    for (const state of ['etc/state', 'etc/new', 'etc/new/er']) {
      const { stateDir } = await readSettings({ 'state-dir': at(state) }, none);
      expect(stateDir).toBe(at(state));
    }
  });

  it('the link that a package is behind is refused, also where it leads to what is root’s', async () => {
    folder('usr/toy');
    file('usr/toy/package.json', '{"name":"toy","main":"main.mjs"}');
    file('usr/toy/main.mjs', 'export default 1;\n');
    folder('etc/node_modules/@some');
    const config = at('etc/config.yaml');
    for (const name of ['toy', '@some/toy']) {
      link(`etc/node_modules/${name}`, at('usr/toy'));
      await expect(loadRenderer('x', name, config)).rejects.toThrow('is not a renderer');
      give(`etc/node_modules/${name}`);
      await expect(loadRenderer('x', name, config)).rejects.toThrow(
        notRoots(at(`etc/node_modules/${name}`)),
      );
    }
    // Names in the package itself, with a folder that is his.
    rmSync(at('etc/node_modules/toy'));
    link('etc/node_modules/toy', at('usr/toy'));
    give('etc/node_modules');
    await expect(loadRenderer('x', 'toy/main.mjs', config)).rejects.toThrow(
      notRoots(at('etc/node_modules')),
    );
  });

  const script = (name: string) => {
    file(name, `#!/bin/sh\ntouch ${at('ran')}\n`);
    chmodSync(at(name), 0o755);
  };

  it('a program of the probe is refused before anything is changed, and not run', async () => {
    script('etc/ask');
    link('home/u/ask', at('etc/ask'));
    const theirs = [at('home/u/ask')] as const;
    await expect(mustBeRunnable(theirs)).rejects.toThrow(notRoots(at('home/u')));
    expect(await probe(theirs)).toContain(notRoots(at('home/u')));
    await expect(readTrusted(at('ran'), 'file')).rejects.toThrow('ENOENT');
    link('etc/link', 'ask');
    expect(await probe([at('etc/link')])).toBeUndefined();
    expect(await readTrusted(at('ran'), 'file')).toBe('');
    for (const fine of [['true'], new URL('https://example.com/')] as const)
      await mustBeRunnable(fine);
  });
});
