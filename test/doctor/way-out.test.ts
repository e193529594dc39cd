import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import wayOut from '../../src/doctor/checks/way-out.ts';
import type { DoctorContext } from '../../src/doctor/check.ts';
import { bundled } from '../helpers/desired.ts';
import { doctorContext } from '../helpers/doctor.ts';
import { recorded, type Recorded } from '../helpers/host.ts';
import { lines } from '../helpers/web.ts';

const fixture = (name: string): Recorded =>
  JSON.parse(
    readFileSync(join(import.meta.dirname, '..', 'fixtures', 'doctor', `${name}.json`), 'utf8'),
  ) as Recorded;

/** Looks, with some answers in place of the recorded ones; answers what was asked of the kernel as well. */
const look = async (
  name: string,
  changes: Readonly<Record<string, string>> = {},
  more: Partial<DoctorContext> = {},
) => {
  const host = fixture(name);
  const context = doctorContext({ ranges: bundled, ...more });
  let asked = '';
  const real = recorded({ ...host, answers: { ...host.answers, ...changes } });
  const seen = await wayOut.observe(
    {
      ...real,
      query: (command) => {
        asked += command.stdin ?? '';
        return real.query(command);
      },
    },
    context,
  );
  return { found: wayOut.judge(seen, context), asked };
};

const rules = (name: string): string => {
  const text = fixture(name).answers!['ip -j -4 rule show'];
  expect(text).toBeTypeOf('string');
  return text as string;
};
const withRule = (name: string, rule: object): Record<string, string> => ({
  'ip -j -4 rule show': rules(name).replace('[', `[${JSON.stringify(rule)},`),
});

describe('way-out', () => {
  it('asks for two addresses of each range, from the public address of each family', async () => {
    const { found, asked } = await look('healthy-crowdsec');
    expect(found).toEqual([]);
    const all = asked.trim().split('\n');
    expect(all).toHaveLength((15 + 7) * 2);
    expect(all[0]).toBe('route get fibmatch 103.21.244.1 from 203.0.113.5');
    expect(all.at(-1)).toMatch(/^route get fibmatch 2c0f:\S+ from 2001:db8:5::5$/);
  });

  it('asks for what the tables single out', async () => {
    const { asked } = await look('refused');
    expect(asked).toContain('route get fibmatch 173.245.48.10 from');
    expect((await look('taken')).asked).toContain('route get fibmatch 172.67.127.255 from');
  });

  it('leaves a VPN open to doubt where connections are marked', async () => {
    expect(lines((await look('vpn')).found)[0]).toMatch(/^problem all 522: rp_filter drops/);
    const marked = { priority: 90, src: 'all', fwmark: '0x5', table: '100' };
    expect(lines((await look('vpn', withRule('vpn', marked))).found)[0]).toMatch(/^note all 522: /);
  });

  it('names the port where rules ask for it', async () => {
    const rule = { priority: 90, src: 'all', ipproto: 'tcp', sport: 443, table: 'main' };
    const batch = fixture('vpn').answers!['ip -j -force -batch -'];
    const { stdout = '', stderr = '' } = typeof batch === 'string' ? { stdout: batch } : batch!;
    expect(stderr).toBe('');
    const [v4, v6] = [stdout.split('\n').slice(0, 30), stdout.trim().split('\n').slice(30)];
    const { asked } = await look('vpn', {
      ...withRule('vpn', rule),
      'ip -j -force -batch -': [...v4, ...v4, ...v6].join('\n'),
    });
    expect(asked).toMatch(/from 203\.0\.113\.5 ipproto tcp sport 80\n/);
    expect(asked).toMatch(/from 203\.0\.113\.5 ipproto tcp sport 443\n/);
    expect(asked).not.toMatch(/from 2001:\S+ ipproto/);
  });

  it('is silent on IPv6 that nobody serves', async () => {
    expect(lines((await look('no-way-ipv6')).found)).toEqual([
      'warning part 522: There is no route to Cloudflare over IPv6: answers on ports 80, 443 have no way out',
    ]);
    expect((await look('no-way-ipv6', {}, { ports: [8443] })).found).toEqual([]);
  });

  it('does not judge answers that it does not understand', async () => {
    await expect(look('vpn', { 'ip -j -force -batch -': '[]' })).rejects.toThrow(
      'ip route get answers in a way that is not understood',
    );
    await expect(look('vpn', { 'ip -j -4 rule show': 'Usage: ip' })).rejects.toThrow(
      'ip -j -4 rule show ended with code 0, or cannot be read',
    );
  });
});
