// How fast totals grow: the difference over the last minute. Nothing here touches the page.

/** Seconds over which a rate is taken. */
const SPAN = 60;

/** Totals of the last minute. */
export class Rates {
  constructor() {
    /** @type {{time: number, totals: Record<string, number>}[]} */
    this.samples = [];
  }

  /** Forget all: another relay counts from the start. */
  clear() {
    this.samples = [];
  }

  /** @param {number} time In seconds, monotonic. @param {Record<string, number>} totals */
  add(time, totals) {
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
    const seconds = (this.samples.at(-1)?.time ?? 0) - (this.samples[0]?.time ?? 0);
    return seconds > 0 ? this.growth(name) / seconds : null;
  }
}
