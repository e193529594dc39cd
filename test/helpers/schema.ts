/** Holds data to a JSON Schema, of which it knows just the keywords that ours use. */

type Schema = Readonly<Record<string, unknown>>;

const remarks = ['$schema', '$defs', 'title', 'description'];

/**
 * Answers what is wrong, by path.
 * @throws Error when the schema has a keyword that is not known here.
 */
export function violations(value: unknown, root: Schema, schema = root, path = '$'): string[] {
  const found: string[] = [];
  const say = (what: string): void => void found.push(`${path}: ${what}`);
  const within = (part: unknown, its: unknown, at: string): void =>
    void found.push(...violations(part, root, its as Schema, at));
  const object = typeof value === 'object' && !Array.isArray(value) ? value : null;
  for (const [keyword, want] of Object.entries(schema))
    switch (keyword) {
      case '$ref':
        within(value, resolve(root, want as string), path);
        break;
      case 'type':
        if (![want].flat().includes(typeOf(value)))
          say(`is ${typeOf(value)}, not ${[want].flat().join(' or ')}`);
        break;
      case 'const':
        if (value !== want) say(`is not ${JSON.stringify(want)}`);
        break;
      case 'enum':
        if (!(want as unknown[]).includes(value)) say(`is none of ${JSON.stringify(want)}`);
        break;
      case 'anyOf':
        if (!(want as Schema[]).some((one) => violations(value, root, one).length === 0))
          say('is none of what it may be');
        break;
      case 'pattern':
        if (typeof value === 'string' && !new RegExp(want as string, 'u').test(value))
          say(`does not match ${String(want)}`);
        break;
      case 'format':
        if (want !== 'uri') throw new Error(`the format ${String(want)} is not known here`);
        if (typeof value === 'string' && !URL.canParse(value)) say('is not a URL');
        break;
      case 'minimum':
        if (typeof value === 'number' && value < Number(want)) say(`is below ${String(want)}`);
        break;
      case 'maximum':
        if (typeof value === 'number' && value > Number(want)) say(`is above ${String(want)}`);
        break;
      case 'minItems':
        if (Array.isArray(value) && value.length < Number(want)) say('is too short');
        break;
      case 'items':
        if (Array.isArray(value))
          for (const [i, item] of value.entries()) within(item, want, `${path}[${i}]`);
        break;
      case 'required':
        for (const name of want as string[])
          if (object !== null && !Object.hasOwn(object, name)) say(`lacks ${name}`);
        break;
      case 'properties':
        for (const [name, its] of Object.entries(want as Schema))
          if (object !== null && Object.hasOwn(object, name))
            within((object as Schema)[name], its, `${path}.${name}`);
        break;
      case 'additionalProperties':
        for (const [name, part] of Object.entries(object ?? {}))
          if (!Object.hasOwn(schema.properties ?? {}, name)) {
            if (want === false) say(`has ${name}, which the schema does not know`);
            else within(part, want, `${path}.${name}`);
          }
        break;
      default:
        if (!remarks.includes(keyword)) throw new Error(`the keyword ${keyword} is not known here`);
    }
  return found;
}

function resolve(root: Schema, pointer: string): unknown {
  const [, name = ''] = /^#\/\$defs\/(\w+)$/.exec(pointer) ?? [];
  const found = (root.$defs as Schema | undefined)?.[name];
  if (found === undefined) throw new Error(`${pointer} leads nowhere`);
  return found;
}

function typeOf(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  return Number.isInteger(value) ? 'integer' : typeof value;
}
