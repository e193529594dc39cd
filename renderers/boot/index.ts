/** Keeps rules across reboots: one systemd unit that restores what was applied, handled like a backend. */
import { BackendError, CfsyncError, exit } from '../../src/errors.ts';
import { fileStep } from '../../src/digest.ts';
import { none } from '../../src/prefix.ts';
import { defineRenderer, type Host, type Owned, type Step } from '../../src/renderer.ts';
import { quoteWord, runningFolder, unitFolder } from '../../src/host/systemd.ts';

const unit = 'cfsync-boot.service';
const path = `${unitFolder}/${unit}`;
/** Where nftables.service hooks in as well (Debian 12, nftables 1.0.6): before the network comes up. */
const wants = `${unitFolder}/sysinit.target.wants`;

interface BootOptions {
  /** The command line that the unit runs. */
  readonly argv: readonly string[];
}

interface BootOwned extends Owned {
  /** The unit's text; null for none. */
  readonly text: string | null;
  readonly enabled: boolean;
}

interface Around {
  /** Whether systemd is running, so that it must be told of new units. */
  readonly running: boolean;
}

export default defineRenderer<BootOptions, BootOwned, Around>({
  api: 1,
  name: 'boot',
  kind: 'list',

  options(raw) {
    const { argv } = raw;
    if (argv === undefined) return { argv: [] };
    if (Array.isArray(argv) && argv.every((word) => typeof word === 'string')) return { argv };
    throw new CfsyncError(exit.usage, 'boot: argv must be a list of strings');
  },

  nothing: { ranges: none, text: null, enabled: false },

  want(_desired, options) {
    return { owned: { ranges: none, text: unitText(options.argv), enabled: true }, notices: [] };
  },

  async observe(host) {
    await mustHaveSystemd(host);
    const text = (await host.read(path)) ?? null;
    const enabled = ((await host.list(wants)) ?? []).includes(unit);
    const running = (await host.list(runningFolder)) !== undefined;
    return { owned: { ranges: none, text, enabled }, around: { running } };
  },

  plan(wanted, observed) {
    const now = observed.owned;
    const steps: Step[] = [];
    const systemctl = (...words: string[]): Step => ({
      kind: 'run',
      summary: `boot: systemctl ${words.join(' ')}`,
      command: { argv: ['systemctl', ...words] },
    });
    if (now.enabled && !wanted.enabled) steps.push(systemctl('disable', unit));
    if (now.text !== wanted.text) {
      const summary = wanted.text === null ? `boot: delete ${path}` : `boot: write ${path}`;
      steps.push(fileStep({ summary, path, old: now.text, content: wanted.text, mode: 0o644 }));
      if (observed.around.running) steps.push(systemctl('daemon-reload'));
    }
    if (!now.enabled && wanted.enabled) steps.push(systemctl('enable', unit));
    return steps;
  },

  print(owned) {
    return owned.text === null ? [] : [{ path: `boot/${unit}`, content: owned.text }];
  },
});

async function mustHaveSystemd(host: Host): Promise<void> {
  if ((await host.list(unitFolder)) === undefined)
    throw new BackendError(
      'not supported',
      `boot: there is no ${unitFolder} here; --persist needs systemd; run cfsync restore at boot by other means`,
    );
}

function unitText(argv: readonly string[]): string {
  return `# Written by cfsync apply --persist; cfsync remove takes it away.
[Unit]
Description=Cloudflare's ranges, as applied last (cfsync)
DefaultDependencies=no
RequiresMountsFor=/etc /usr /var
After=local-fs.target nftables.service ufw.service netfilter-persistent.service
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=${argv.map(quoteWord).join(' ')}
ExecReload=${argv.map(quoteWord).join(' ')}

[Install]
WantedBy=sysinit.target
`;
}
