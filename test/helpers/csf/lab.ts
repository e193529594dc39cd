/** A lab whose origin has the stand-in for CSF. */
import { readFileSync } from 'node:fs';
import { emptied, Lab, type LabOptions } from '../../live/lab.ts';

const standIn = readFileSync(new URL('csf', import.meta.url), 'utf8');

/** As the installer of CSF 15.10 leaves them, where they matter here; TESTING and IPV6 as on a server in use. */
const defaults = {
  TESTING: '0',
  IPV6: '1',
  FASTSTART: '1',
  TCP_IN: '22',
  TCP6_IN: '22',
  UDP_IN: '53',
  UDP6_IN: '53',
};

export type Conf = Readonly<Record<string, string>>;

/** Writes csf.conf anew. */
export async function configure(lab: Lab, changes: Conf = {}): Promise<void> {
  const settings = Object.entries({ ...defaults, ...changes });
  const text = settings.map(([name, value]) => `${name} = "${value}"\n`).join('');
  await put(lab, '/etc/csf/csf.conf', text);
}

export async function put(lab: Lab, path: string, text: string, mode = '600'): Promise<void> {
  await lab.origin.must(['tee', path], { stdin: text });
  await lab.origin.must(['chmod', mode, path]);
}

/** With CSF running. */
export async function csfLab(conf: Conf = {}, options: LabOptions = {}): Promise<Lab> {
  const lab = await Lab.create(options);
  try {
    const { origin } = lab;
    // Not only in /etc: what a run leaves in these must not stay on the machine either.
    for (const folder of ['/usr/local/sbin', '/var/lib'])
      await origin.must(['sh', '-c', emptied(folder)]);
    await origin.must(['mkdir', '/etc/csf', '/var/lib/csf']);
    await put(lab, '/usr/local/sbin/csf', standIn, '755');
    await put(lab, '/etc/csf/csf.allow', allowed);
    await put(lab, '/etc/csf/csf.ignore', '# csf.ignore\n127.0.0.1\n');
    await put(lab, '/etc/csf/csf.deny', '# csf.deny\n');
    await configure(lab, conf);
    await origin.must(['csf', '-r']);
    return lab;
  } catch (error) {
    await lab.close();
    throw error;
  }
}

/** The admin's own: a plain address, and a line of the kind that cfsync writes. */
export const allowed = `# csf.allow
192.0.2.77 # office
tcp|in|d=22|s=192.0.2.0/24
`;
