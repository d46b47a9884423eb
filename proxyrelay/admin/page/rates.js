// How fast totals grow: the difference over the last minute. Nothing here touches the page.

/** Seconds over which a rate is taken. */
const SPAN = 60;

/** Seconds without totals after which those before no longer count: nobody has looked. */
const GAP = 20;

/** Totals of the last minute. */
export class Rates {
  constructor() {
    /** @type {{time: number, totals: Record<string, number>}[]} */
    this.samples = [];
    this.clear();
  }

  /** Forget all: another relay counts from the start, where all totals are 0. */
  clear() {
    this.samples = [{ time: 0, totals: {} }];
  }

  /**
   * @param {number} time In seconds since the start of the relay.
   * @param {Record<string, number>} totals
   */
  add(time, totals) {
    if (time - (this.samples.at(-1)?.time ?? 0) > GAP) this.samples = [];
    this.samples.push({ time, totals });
    while (this.samples.length > 2 && this.samples[1].time <= time - SPAN) this.samples.shift();
  }

  /** @param {string} name @returns {number} How much a total has grown. */
  growth(name) {
    const [first, last] = [this.samples[0], this.samples.at(-1)];
    return (last?.totals[name] ?? 0) - (first?.totals[name] ?? 0);
  }

  /** @param {string} name @returns {number | null} Growth in a second; null if not known yet. */
  of(name) {
    const start = this.samples[0]?.time ?? 0;
    const seconds = (this.samples.at(-1)?.time ?? 0) - start;
    const isKnown = start === 0 || seconds >= SPAN;
    return isKnown ? this.growth(name) / Math.max(seconds, SPAN) : null;
  }
}
