/**
 * The regular expressions of an nginx configuration, tried on short texts in bounded time.
 *
 * JavaScript's own read some of PCRE's syntax in another sense (`\A`, `[[:digit:]]`), and some patterns would take
 * them forever. Here a part of a pattern is followed from all places in the text at once, so nothing is tried twice.
 */

/** What a pattern has that is not understood, or that it takes too many steps. */
export class Unreadable extends Error {}

/** How many more steps may be taken; shared by the patterns of one block. */
export interface Effort {
  left: number;
}

/** The places in the text that this part of a pattern leads to, from those where it may begin. */
type Part = (text: string, from: ReadonlySet<number>) => ReadonlySet<number>;

/** Whether a character, one UTF-16 unit, is meant. */
type Fits = (character: string) => boolean;

/** Groups in groups that are read. */
const deepest = 50;

const classes: Readonly<Record<string, RegExp>> = {
  d: /^\d$/,
  D: /^\D$/,
  w: /^\w$/,
  W: /^\W$/,
  s: /^\s$/,
  S: /^\S$/,
};

/**
 * @returns Whether a text has a match; throws Unreadable when that takes too many steps.
 * @throws Unreadable when the pattern has more than groups, classes, alternatives, quantifiers, anchors and looks ahead.
 */
export function compile(
  source: string,
  ignoreCase: boolean,
  effort: Effort,
): (text: string) => boolean {
  const caseless = ignoreCase || source.startsWith('(?i)');
  const match = new Reader(source.replace(/^\(\?i\)/, ''), caseless, effort).all();
  return (text) =>
    match(text, new Set(Array.from({ length: text.length + 1 }, (_, i) => i))).size > 0;
}

class Reader {
  readonly #source: string;
  readonly #ignoreCase: boolean;
  readonly #effort: Effort;
  #at = 0;

  constructor(source: string, ignoreCase: boolean, effort: Effort) {
    this.#source = source;
    this.#ignoreCase = ignoreCase;
    this.#effort = effort;
  }

  all(): Part {
    const part = this.#alternatives(0);
    if (this.#at < this.#source.length) throw new Unreadable();
    return part;
  }

  #alternatives(depth: number): Part {
    if (depth > deepest) throw new Unreadable();
    const list = [this.#sequence(depth)];
    while (this.#take('|')) list.push(this.#sequence(depth));
    return (text, from) => new Set(list.flatMap((part) => [...part(text, from)]));
  }

  #sequence(depth: number): Part {
    const list: Part[] = [];
    while (this.#at < this.#source.length && !/[|)]/.test(this.#source[this.#at]!))
      list.push(this.#quantified(depth));
    return (text, from) => list.reduce((places, part) => part(text, places), from);
  }

  #quantified(depth: number): Part {
    const part = this.#atom(depth);
    const quantifier = /([*+?])|\{(\d+)(,(\d*))?\}/y;
    quantifier.lastIndex = this.#at;
    const found = quantifier.exec(this.#source);
    if (found === null) return part;
    this.#at = quantifier.lastIndex;
    // A lazy one matches the same texts; a possessive one does not.
    if (!this.#take('?') && this.#take('+')) throw new Unreadable();
    const [, sign, least, open, most] = found;
    if (sign !== undefined)
      return this.#repeated(part, sign === '+' ? 1 : 0, sign === '?' ? 1 : Infinity);
    const min = Number(least);
    return this.#repeated(
      part,
      min,
      open === undefined ? min : most === '' ? Infinity : Number(most),
    );
  }

  #repeated(part: Part, min: number, max: number): Part {
    return (text, from) => {
      let places = from;
      // More times than there are characters only repeat what takes none.
      for (let i = 0; i < Math.min(min, text.length + 1) && places.size > 0; i++) {
        this.#spend(places.size);
        places = part(text, places);
      }
      const all = new Set(places);
      for (let i = min; i < max && places.size > 0; i++) {
        this.#spend(places.size);
        places = new Set([...part(text, places)].filter((place) => !all.has(place)));
        for (const place of places) all.add(place);
      }
      return all;
    };
  }

  #atom(depth: number): Part {
    const c = this.#source[this.#at++]!;
    if (c === '(') return this.#group(depth);
    if (c === '[') return this.#one(this.#list());
    if (c === '.') return this.#one((character) => character !== '\n');
    if (c === '^') return this.#where((_, place) => place === 0);
    if (c === '$') return this.#where((text, place) => place === text.length);
    if (c === '\\') return this.#escape();
    if (/[*+?]/.test(c)) throw new Unreadable();
    return this.#one(this.#same(c));
  }

  #group(depth: number): Part {
    const start = /\?(?::|P?<[A-Za-z_]\w*>|([=!]))|(?!\?)/y;
    start.lastIndex = this.#at;
    const found = start.exec(this.#source);
    if (found === null) throw new Unreadable();
    this.#at = start.lastIndex;
    const part = this.#alternatives(depth + 1);
    if (!this.#take(')')) throw new Unreadable();
    const [, ahead] = found;
    if (ahead === undefined) return part;
    return this.#where((text, place) => part(text, new Set([place])).size > 0 === (ahead === '='));
  }

  #escape(): Part {
    const c = this.#source[this.#at++];
    if (c === 'A') return this.#where((_, place) => place === 0);
    if (c === 'z' || c === 'Z') return this.#where((text, place) => place === text.length);
    if (c === 'b') return this.#where(isBoundary);
    if (c === 'B') return this.#where((text, place) => !isBoundary(text, place));
    return this.#one(this.#meant(c));
  }

  /** What stands behind a backslash, where that is one character. */
  #meant(c: string | undefined): Fits {
    if (c === undefined) throw new Unreadable();
    const kind = Object.hasOwn(classes, c) ? classes[c] : undefined;
    if (kind !== undefined) return (character) => kind.test(character);
    if (/[A-Za-z0-9]/.test(c)) throw new Unreadable();
    return this.#same(c);
  }

  /** The inside of `[...]`. */
  #list(): Fits {
    const not = this.#take('^');
    const members: Fits[] = [];
    do members.push(this.#member());
    while (!this.#take(']'));
    return (character) => members.some((fits) => fits(character)) !== not;
  }

  #member(): Fits {
    const c = this.#source[this.#at++];
    // `[:digit:]` and the like.
    if (c === undefined || (c === '[' && /[:.=]/.test(this.#source[this.#at] ?? '')))
      throw new Unreadable();
    if (c === '\\') return this.#meant(this.#source[this.#at++]);
    const range = /-([^\]\\[])/y;
    range.lastIndex = this.#at;
    const last = range.exec(this.#source)?.[1];
    if (last === undefined) return this.#same(c);
    this.#at = range.lastIndex;
    return this.#folded((character) => c <= character && character <= last);
  }

  #same(c: string): Fits {
    return this.#folded((character) => character === c);
  }

  #folded(fits: Fits): Fits {
    if (!this.#ignoreCase) return fits;
    return (character) => fits(character.toLowerCase()) || fits(character.toUpperCase());
  }

  #one(fits: Fits): Part {
    return (text, from) => {
      this.#spend(from.size);
      return new Set([...from].filter((i) => i < text.length && fits(text[i]!)).map((i) => i + 1));
    };
  }

  #where(holds: (text: string, place: number) => boolean): Part {
    return (text, from) => {
      this.#spend(from.size);
      return new Set([...from].filter((place) => holds(text, place)));
    };
  }

  #take(c: string): boolean {
    if (this.#source[this.#at] !== c) return false;
    this.#at++;
    return true;
  }

  #spend(steps: number): void {
    this.#effort.left -= steps + 1;
    if (this.#effort.left < 0) throw new Unreadable();
  }
}

function isBoundary(text: string, place: number): boolean {
  return /^\w$/.test(text[place - 1] ?? '') !== /^\w$/.test(text[place] ?? '');
}
