/** What the tests of the ingress controller begin with. */
import ingress from '../../../renderers/nginx-ingress/index.ts';
import type { IngressAround } from '../../../renderers/nginx-ingress/state.ts';
import { parseRanges } from '../../../src/prefix.ts';
import { desired } from '../../helpers/desired.ts';

export const small = desired({ ranges: parseRanges(['173.245.48.0/20', '2400:cb00::/32']) });
export const data = {
  'enable-real-ip': 'true',
  'forwarded-for-header': 'CF-Connecting-IP',
  'proxy-real-ip-cidr': '173.245.48.0/20,2400:cb00::/32',
};
export const options = ingress.options({});
export const around: IngressAround = {
  target: {
    flavour: 'community',
    namespace: 'ingress-nginx',
    name: 'ingress-nginx-controller',
  },
  data: {},
  version: '7',
  owners: {},
  ours: [],
  hiding: [],
  kubectl: ['kubectl'],
  force: false,
};
