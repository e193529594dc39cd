/** Does DNS lead visitors to Cloudflare, and Cloudflare to this host? Asks a resolver, and only when told a name. */
import { Resolver } from 'node:dns/promises';
import { isIP } from 'node:net';
import { CfsyncError, errno, exit } from '../../errors.ts';
import { contains } from '../../prefix.ts';
import { ownAddresses } from '../../host/interfaces.ts';
import { plain } from '../../host/proc.ts';
import { publicSpace } from '../../special-purpose.ts';
import { defineCheck, type DoctorContext, type Finding } from '../check.ts';
import { targetOf } from '../target.ts';

interface Seen {
  /** Null where no name was given. */
  readonly name: string | null;
  /** What the name resolves to; empty where there is none. */
  readonly resolved: readonly string[];
  /** Why no resolver answered; null when one did, or none was asked. */
  readonly unanswered: string | null;
  /** The addresses of this host's interfaces that the Internet could reach. */
  readonly own: readonly string[];
}

/** Milliseconds for one question, asked once. */
const limit = 2500;

export default defineCheck<Seen>({
  name: 'dns',
  title:
    'DNS: the name leads to Cloudflare, and the origin address is of this host (with --host, --origin-ip)',

  async observe(_host, { values }) {
    const name = targetOf(values).host ?? null;
    const own = ownAddresses().map(({ address }) => address);
    const answer = name === null ? { resolved: [], unanswered: null } : await resolve(name);
    return { name, own: own.filter(isPublic), ...answer };
  },

  judge(seen, context) {
    const origin = targetOf(context.values).originIp ?? null;
    return [
      ...named(seen, origin, context),
      ...(origin === null ? [] : here(origin, seen, context)),
    ];
  },
});

/** Not getaddrinfo(3): /etc/hosts of a web server often says that its name is 127.0.1.1. */
async function resolve(name: string): Promise<Pick<Seen, 'resolved' | 'unanswered'>> {
  const resolver = new Resolver({ timeout: limit, tries: 1 });
  const asked = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)]);
  const resolved = asked.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []));
  // There is no such name, or it has no address of that family: that is an answer.
  const silent = asked.flatMap((answer) => {
    const code = answer.status === 'rejected' ? errno(answer.reason) : undefined;
    return answer.status === 'fulfilled' || code === 'ENODATA' || code === 'ENOTFOUND'
      ? []
      : [String(code)];
  });
  return {
    resolved: resolved.sort(),
    unanswered: resolved.length === 0 && silent.length > 0 ? silent[0]! : null,
  };
}

function named(
  { name, resolved, unanswered, own }: Seen,
  origin: string | null,
  { ranges }: DoctorContext,
): readonly Finding[] {
  if (name === null) return [];
  if (unanswered !== null)
    throw new CfsyncError(
      exit.failed,
      `no resolver answers (${unanswered}), so what ${name} resolves to is not known`,
    );
  if (resolved.length === 0)
    return [
      {
        level: 'warning',
        share: 'all',
        causes: [],
        title: `There is no address for ${name} in DNS`,
        evidence: ['the resolver answered that there is neither A nor AAAA'],
        advice: 'Add a record for it in the DNS of its zone at Cloudflare, proxied.',
      },
    ];
  const direct = resolved.filter((address) => !contains(ranges, address));
  if (direct.length === 0) return [];
  const ours = direct.filter(
    (address) => own.includes(plain(address)) || plain(address) === origin,
  );
  const evidence = resolved.map(
    (address) =>
      `${name} resolves to ${address}${contains(ranges, address) ? ", Cloudflare's" : ''}`,
  );
  if (ours.length > 0)
    return [
      {
        level: 'warning',
        share: 'part',
        causes: [],
        title: `${name} leads straight to this host, and not through Cloudflare`,
        evidence,
        advice:
          'Switch the record to "Proxied" in the DNS of its zone at Cloudflare; until then its visitors see none of Cloudflare\'s errors, and lockdown shuts them out.',
      },
    ];
  return [
    {
      level: 'warning',
      share: 'all',
      causes: [],
      title: `${name} leads neither to Cloudflare nor to this host`,
      evidence: [
        ...evidence,
        own.length === 0 ? 'this host has no public address' : `this host has ${own.join(', ')}`,
      ],
      advice:
        'Its visitors do not come here: look at its record, and at who is authoritative for its zone.',
    },
  ];
}

/** Whether the address that Cloudflare connects to is of this host. */
function here(origin: string, { own }: Seen, { ranges }: DoctorContext): readonly Finding[] {
  if (contains(ranges, origin))
    return [
      {
        level: 'problem',
        share: 'all',
        causes: [],
        title:
          "The origin address is one of Cloudflare's own: the record leads in a circle (error 1000)",
        evidence: [`--origin-ip ${origin}`],
        advice: 'Put the address of this host into the record at Cloudflare.',
      },
    ];
  if (!isPublic(origin))
    return [
      {
        level: 'problem',
        share: 'all',
        causes: [523],
        title: 'The origin address is not one that the Internet can reach',
        evidence: [`--origin-ip ${origin}`],
        advice:
          'Put the public address of this host into the record at Cloudflare, or use a tunnel.',
      },
    ];
  if (own.includes(origin)) return [];
  const family = own.filter((address) => isIP(address) === isIP(origin));
  // Behind NAT, as in most clouds, the host does not know its public address.
  if (family.length === 0)
    return [
      {
        level: 'note',
        share: 'maybe',
        causes: [521, 522],
        title: `Whether ${origin} leads to this host cannot be told: it has no public address of that family`,
        evidence: ['it is behind NAT or a load balancer, or has none'],
        advice:
          'Compare it with what the provider says: the floating or elastic address of this host.',
      },
    ];
  return [
    {
      level: 'problem',
      share: 'all',
      causes: [521, 522, 523],
      title: `Cloudflare connects to ${origin}, which is not an address of this host`,
      evidence: [`this host has ${own.join(', ')}`],
      advice:
        'Put one of these into the record at Cloudflare, unless a load balancer has the other one.',
    },
  ];
}

function isPublic(address: string): boolean {
  // Of an interface, with its zone.
  const [text = ''] = address.split('%');
  return contains(publicSpace, text);
}
