/** Do the real-IP keys of the ingress controller do anything? Looks where a cluster is configured. */
import { flavours, isTrue, listed } from '../../../renderers/nginx-ingress/controllers.ts';
import ingress from '../../../renderers/nginx-ingress/index.ts';
import type {
  Data,
  IngressAround,
  IngressOptions,
} from '../../../renderers/nginx-ingress/state.ts';
import { CfsyncError, exit } from '../../errors.ts';
import { intersect, isEmpty, none, parseRanges, subtract } from '../../prefix.ts';
import type { Ranges } from '../../renderer.ts';
import { few } from '../../text.ts';
import { defineCheck, type Finding } from '../check.ts';

/** What the API server answered; null where no cluster is configured. */
type Seen = { readonly around: IngressAround; readonly options: IngressOptions } | null;

/** The keys that each controller ignores, for they are the other one's. */
const ignored = {
  community: [...flavours.community.foreign, 'real-ip-recursive'],
  f5: flavours.f5.foreign,
} as const;

/** https://developers.cloudflare.com/fundamentals/reference/http-headers/ */
const sent = ['cf-connecting-ip', 'true-client-ip', 'x-forwarded-for'];

const command = 'cfsync apply --backend nginx-ingress';

export default defineCheck<Seen>({
  name: 'ingress',
  title:
    'real-IP keys of the ingress controller that do nothing, and what hides Cloudflare from it',

  async observe(host, context) {
    if (context.ingress === null) return null;
    const { around } = await ingress.observe(host, context.ingress);
    const { target, data } = around;
    if (data === null)
      throw new CfsyncError(
        exit.failed,
        `there is no ConfigMap ${target.namespace}/${target.name} of a controller of the flavour ${target.flavour}; set flavour, namespace and name in the configuration`,
      );
    return { around, options: context.ingress };
  },

  judge(seen, { ranges }) {
    if (seen === null || seen.around.data === null) return [];
    const { target, data, hiding } = seen.around;
    const remedy = tried(seen, ranges);
    const place = `ConfigMap ${target.namespace}/${target.name}`;
    const line = (key: string): string => `${place}: ${key}: ${shorten(data[key] ?? '(not set)')}`;
    const warning = (
      title: string,
      names: readonly string[],
      { command: given = remedy.command ?? null, ...more }: More = {},
    ): Finding => ({
      level: 'warning',
      share: 'all',
      causes: [],
      title,
      evidence: names.map(line),
      ...(given !== null ? { command: given } : remedy),
      ...more,
    });
    const { cidrs, header } = flavours[target.flavour];
    const findings: Finding[] = [];
    const inert = ignored[target.flavour].filter((key) => data[key] !== undefined);
    if (inert.length > 0)
      findings.push(
        warning(
          `The controller (flavour ${target.flavour}) does not know ${inert.join(', ')}`,
          inert,
          {
            advice:
              'It ignores them without a word: they are keys of the other nginx ingress controller. Where Helm or another manager set them, take them out of its values.',
            command: `kubectl -n ${target.namespace} patch configmap ${target.name} --type merge -p '${JSON.stringify({ data: Object.fromEntries(inert.map((key) => [key, null])) })}'`,
          },
        ),
      );
    findings.push(
      ...(target.flavour === 'community' ? community(data, warning, ranges) : f5(data, warning)),
    );
    const listed = prefixesOf(data[cidrs]);
    const missing = subtract(ranges, listed);
    const isOn = target.flavour === 'f5' || isTrue(data['enable-real-ip']);
    if (data[cidrs] !== undefined && isOn && !isEmpty(missing))
      findings.push(
        warning(
          `${cidrs} lacks ranges of Cloudflare's: visitors through them keep its address`,
          [cidrs],
          {
            share: 'part',
            evidence: [line(cidrs), `missing: ${few([...missing.v4, ...missing.v6])}`],
          },
        ),
      );
    const name = data[header] ?? (target.flavour === 'f5' ? 'X-Real-IP' : 'X-Forwarded-For');
    if (data[cidrs] !== undefined && isOn && !sent.includes(name.toLowerCase()))
      findings.push(warning(`Cloudflare does not send the header ${name}`, [header]));
    if (hiding.length > 0 && (data[cidrs] !== undefined || isTrue(data['enable-real-ip'])))
      findings.push(
        warning("The controller sees addresses of nodes, never Cloudflare's", [], {
          evidence: hiding.map(
            (service) => `Service ${service}: externalTrafficPolicy is not Local`,
          ),
          command: `kubectl -n ${hiding[0]!.split('/')[0]} patch service ${hiding[0]!.split('/')[1]} -p '{"spec":{"externalTrafficPolicy":"Local"}}'`,
        }),
      );
    return findings;
  },
});

/** Whether an apply would be refused is asked of the renderer; with what it would say, where it would. */
function tried(
  { around, options }: Seen & object,
  ranges: Ranges,
): Pick<Finding, 'command' | 'advice'> {
  try {
    const desired = { ranges, extra: none, mode: 'allow', tcpPorts: [], udpPorts: [] } as const;
    ingress.want(desired, options, around);
    return { command };
  } catch (error) {
    if (!(error instanceof CfsyncError)) throw error;
    const told = error.message.replace(/^nginx-ingress: /, '');
    return {
      advice: `cfsync apply would refuse: ${told}. What Helm or another manager sets, it sets again: change it in its values (cfsync render --backend nginx-ingress --helm-values prints them).`,
    };
  }
}

/** `command: null`: no single command mends it. */
type More = Partial<Omit<Finding, 'command'>> & { readonly command?: string | null };
type Warn = (title: string, names: readonly string[], more?: More) => Finding;

/** kubernetes/ingress-nginx, controller 1.15.1: nginx.tmpl has real-IP only where one of three keys is on. */
function community(data: Data, warning: Warn, ranges: Ranges): readonly Finding[] {
  const cidrs = 'proxy-real-ip-cidr';
  const on = ['enable-real-ip', 'use-forwarded-headers', 'use-proxy-protocol'].filter((key) =>
    isTrue(data[key]),
  );
  const findings: Finding[] = [];
  if (data[cidrs] !== undefined && on.length === 0)
    findings.push(
      warning(`${cidrs} alone does nothing: visitors keep Cloudflare's address`, [
        cidrs,
        'enable-real-ip',
      ]),
    );
  if (data[cidrs] === undefined && isTrue(data['enable-real-ip']))
    findings.push(
      warning(
        'The controller believes everybody who they say the visitor is',
        ['enable-real-ip', cidrs],
        {
          advice: `Without ${cidrs} it is 0.0.0.0/0: whoever reaches the controller may name any address.`,
        },
      ),
    );
  if (isTrue(data['use-forwarded-headers']))
    findings.push(
      warning(
        'X-Forwarded-* headers are believed from everybody, not from Cloudflare alone',
        ['use-forwarded-headers'],
        {
          command: null,
          advice: 'enable-real-ip with forwarded-for-header CF-Connecting-IP does without it.',
        },
      ),
    );
  const list = prefixesOf(data['whitelist-source-range']);
  if (on.length > 0 && !isEmpty(intersect(list, ranges)) && ![...list.v4, ...list.v6].some(isAll))
    findings.push(
      warning(
        "whitelist-source-range has Cloudflare's ranges and sees the visitors: all of them get 403",
        ['whitelist-source-range', ...on],
        {
          level: 'problem',
          command: null,
          advice:
            'Take them out of it; loadBalancerSourceRanges of the Service, or a firewall, lets in Cloudflare alone.',
        },
      ),
    );
  findings.push({
    level: 'note',
    share: 'maybe',
    causes: [],
    title:
      'The controller ingress-nginx is retired: no releases and no security fixes after March 2026',
    evidence: ['https://github.com/kubernetes/ingress-nginx says so'],
    advice: 'Plan to move to another controller, or to an implementation of the Gateway API.',
  });
  return findings;
}

function f5(data: Data, warning: Warn): readonly Finding[] {
  const findings: Finding[] = [];
  if (data['real-ip-header'] !== undefined && data['set-real-ip-from'] === undefined)
    findings.push(
      warning('real-ip-header alone does nothing: nobody is believed', [
        'real-ip-header',
        'set-real-ip-from',
      ]),
    );
  if (isTrue(data['proxy-protocol']))
    findings.push(
      warning(
        'proxy-protocol is on: who connects is the load balancer, and never Cloudflare',
        ['proxy-protocol'],
        {
          command: null,
          advice:
            'Switch it off here and at the load balancer where that passes connections on as they are (externalTrafficPolicy: Local); else the load balancer is what has to be believed.',
        },
      ),
    );
  return findings;
}

function prefixesOf(list: string | undefined): Ranges {
  return parseRanges(listed(list));
}

function isAll(prefix: string): boolean {
  return prefix.endsWith('/0');
}

function shorten(value: string): string {
  return value.length > 120 ? `${value.slice(0, 120)}...` : value;
}
