// The plots that move: samples of the relay, drawn by uPlot, each with its figures as text.

import { byId, element, write } from "./dom.js";
import { glossary, PLOTS } from "./explain.js";
import { clock, count, latency, minute, rate, short } from "./text.js";

/**
 * A row of /history: time, clients, registrations, messages and refusals per second, lag,
 * median and 99th percentile from offer to answer, 99th percentile of the handshake.
 * @typedef {(number | null)[]} Sample
 *
 * @typedef {object} Line
 * @property {string} label
 * @property {number} column Its place in a sample.
 *
 * @typedef {object} Kind
 * @property {(value: number | null) => string} figure
 * @property {(value: number) => string} tick
 * @property {number} least What the scale reaches at the least.
 *
 * @typedef {object} Plan
 * @property {string} title
 * @property {Kind} kind
 * @property {Line[]} lines
 */

const HEIGHT = 150;
const HOUR = 3600;

/** Seconds that are shown at the least, however young the relay is. */
const LEAST = 120;

/** Milliseconds between two drawings for those who want little to move. */
const CALM = 10_000;

/** Dashes beside the colours, so that lines are told apart without them. */
const DASHES = [[], [6, 4]];

const STEPS = [15, 30, 60, 120, 300, 600, 1200, 3600];

/** Where a scale may end, times a power of ten; those of 3 have thirds, others halves. */
const ENDS = [1, 2, 3, 4, 6, 8, 10];

/** @type {Kind} */
const COUNTED = { figure: count, tick: short, least: 4 };
/** @type {Kind} */
const RATE = { figure: rate, tick: short, least: 1 };
/** @type {Kind} */
const TIME = { figure: latency, tick: latency, least: 0.001 };

/** @type {Plan[]} */
const PLANS = [
  { title: "Connected clients", kind: COUNTED, lines: [{ label: "clients", column: 1 }] },
  { title: "Messages", kind: RATE, lines: [{ label: "forwarded", column: 3 }] },
  {
    title: "Registrations and refusals",
    kind: RATE,
    lines: [
      { label: "registered", column: 2 },
      { label: "refused", column: 4 },
    ],
  },
  {
    title: "Offer to answer",
    kind: TIME,
    lines: [
      { label: "median", column: 6 },
      { label: "99th percentile", column: 7 },
    ],
  },
  { title: "Handshake", kind: TIME, lines: [{ label: "99th percentile", column: 8 }] },
  { title: "Event loop lag", kind: TIME, lines: [{ label: "99th percentile", column: 5 }] },
];

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");

/**
 * @param {Sample[]} samples
 * @param {number} interval Seconds between two of them.
 * @returns {Sample[]} The same, with an empty row where some are missing, so that no line
 *   is drawn across.
 */
export function withGaps(samples, interval) {
  return samples.flatMap((sample, i) => {
    const before = i > 0 ? Number(samples[i - 1][0]) : Number(sample[0]);
    if (Number(sample[0]) - before <= 3 * interval) return [sample];
    return [[before + interval, ...sample.slice(1).map(() => null)], sample];
  });
}

/** @param {string} name @returns {string} What the style sheet says. */
function colour(name) {
  return getComputedStyle(document.body).getPropertyValue(name);
}

/**
 * @param {(value: number) => string} tick
 * @returns {(plot: any, ticks: number[]) => string[]} What uPlot writes at an axis.
 */
function spell(tick) {
  return (_, ticks) => ticks.map(tick);
}

/**
 * @param {any} _plot
 * @param {number[]} ticks
 * @param {number} _axis
 * @param {number} _space
 * @param {number} step Seconds from one tick to the next.
 * @returns {string[]}
 */
function spellTimes(_plot, ticks, _axis, _space, step) {
  return ticks.map(step < 60 ? clock : minute);
}

/** @param {number} value @returns {number[]} Ticks from 0 on; the last one reaches the value. */
export function ticksTo(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  // A little more, since 3 times 0.001 is not quite 0.003.
  const end = ENDS.find((n) => n * power * (1 + 1e-9) >= value) ?? 10;
  const parts = end % 3 ? 2 : 3;
  return [...Array(parts + 1).keys()].map((i) => (i * end * power) / parts);
}

/**
 * @param {number} least What the scale reaches at the least.
 * @returns {(plot: any, min: number, max: number) => [number, number]}
 */
function fromZero(least) {
  return (_plot, _min, max) => [0, ticksTo(Math.max(max, least)).at(-1) ?? least];
}

/**
 * @param {any} _plot
 * @param {number} _axis
 * @param {number} _min
 * @param {number} max
 * @returns {number[]} Ticks, the last of them at the end of the scale.
 */
function splits(_plot, _axis, _min, max) {
  return ticksTo(max);
}

/** @param {any} plot @param {number} line @returns {number[]} Points that no line leads to. */
function lonely(plot, line) {
  const values = plot.data[line];
  const [first, last] = plot.series[0].idxs;
  const found = [];
  for (let i = first; i <= last; i += 1) {
    const alone = values[i - 1] == null && values[i + 1] == null;
    if (values[i] !== null && alone) found.push(i);
  }
  return found;
}

/** One plot: its title, its figures in words, and the drawing. */
class Plot {
  /** @param {Plan} plan @param {() => number[]} range From when to when. */
  constructor(plan, range) {
    this.plan = plan;
    this.values = plan.lines.map(() => element("output"));
    this.at = element("span", "at");
    this.drawing = element("div", "drawing");
    this.drawing.setAttribute("role", "img");
    this.figure = element("figure", "card plot", this._caption(), this.drawing);
    this.chart = new uPlot(this._options(range), [[], ...plan.lines.map(() => [])], this.drawing);
    new ResizeObserver(() => this._fit()).observe(this.drawing);
  }

  _caption() {
    const lines = this.plan.lines.map(({ label }, i) => {
      const key = element("span", `key line-${i + 1}`);
      key.setAttribute("aria-hidden", "true");
      return element("li", "", key, `${label} `, this.values[i]);
    });
    const title = element("h3", "", this.plan.title);
    return element("figcaption", "", title, this.at, element("ul", "", ...lines));
  }

  /** @param {() => number[]} range */
  _options(range) {
    const { kind, lines } = this.plan;
    const axis = {
      stroke: () => colour("--muted"),
      grid: { stroke: () => colour("--grid"), width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    return {
      width: 300,
      height: HEIGHT,
      legend: { show: false },
      select: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "time" } },
      scales: { x: { range }, y: { range: fromZero(kind.least) } },
      axes: [
        { ...axis, size: 32, gap: 9, space: 80, incrs: STEPS, values: spellTimes },
        { ...axis, size: 54, splits, values: spell(kind.tick) },
      ],
      series: [{}, ...lines.map((_, i) => this._line(i))],
      hooks: { setCursor: [() => this._show()] },
    };
  }

  /** @param {number} i */
  _line(i) {
    const stroke = () => colour(`--line-${i + 1}`);
    const points = { show: true, size: 4, stroke, fill: stroke, filter: lonely };
    return { stroke, width: 1.75, dash: DASHES[i], points };
  }

  /** As wide as there is room. */
  _fit() {
    const width = Math.floor(this.drawing.clientWidth);
    if (width > 0 && width !== this.chart.width) this.chart.setSize({ width, height: HEIGHT });
  }

  /** Draw with the colours of now. */
  repaint() {
    this.chart.redraw(false);
  }

  /** @param {Sample[]} samples @param {string} span In words. @param {boolean} draw */
  update(samples, span, draw) {
    const columns = [0, ...this.plan.lines.map(({ column }) => column)];
    const data = columns.map((column) => samples.map((sample) => sample[column]));
    if (draw) this.chart.setData(data);
    this.latest = data.map((column) => column.at(-1) ?? null);
    this._show();
    this.drawing.setAttribute("aria-label", this._summary(data, span));
  }

  /** The figures under the pointer, or else the latest. */
  _show() {
    const index = this.chart?.cursor.idx ?? null;
    const column = (/** @type {number} */ i) =>
      index === null ? (this.latest?.[i] ?? null) : (this.chart.data[i][index] ?? null);
    this.values.forEach((value, i) => write(value, this.plan.kind.figure(column(i + 1))));
    write(this.at, index === null || column(0) === null ? "" : `at ${clock(column(0))}`);
  }

  /**
   * @param {(number | null)[][]} data
   * @param {string} span
   * @returns {string} For those who do not see it.
   */
  _summary(data, span) {
    const { figure } = this.plan.kind;
    const lines = this.plan.lines.map(({ label }, i) => {
      const known = data[i + 1].filter((value) => value !== null);
      if (known.length === 0) return `${label}: nothing measured`;
      const least = known.reduce((a, b) => Math.min(a, b));
      const most = known.reduce((a, b) => Math.max(a, b));
      const now = figure(data[i + 1].at(-1) ?? null).replace("–", "nothing measured");
      return `${label}: now ${now}, between ${figure(least)} and ${figure(most)}`;
    });
    return `${this.plan.title}, the last ${span}. ${lines.join(". ")}.`;
  }
}

/** All plots, over one span of time. */
export class Plots {
  /** @param {HTMLElement} parent */
  constructor(parent) {
    /** @type {Sample[]} */
    this.samples = [];
    this.interval = 2;
    this.span = 900;
    this.words = "15 min";
    this.drawn = 0;
    const range = () => [this.start, this.end];
    this.plots = PLANS.map((plan) => new Plot(plan, range));
    parent.append(...this.plots.map((plot) => plot.figure));
    dark.addEventListener("change", () => this.repaint());
    byId("plots-help").append(glossary(PLOTS));
  }

  /** Draw with the colours of now. */
  repaint() {
    for (const plot of this.plots) plot.repaint();
  }

  /** When the last sample was taken, in Unix seconds; 0 without one. */
  get last() {
    return Number(this.samples.at(-1)?.[0] ?? 0);
  }

  /** Where the plots end: at the last sample, or now. */
  get end() {
    return this.last || Date.now() / 1000;
  }

  /** Where they begin: as far back as they shall, if there are samples. */
  get start() {
    const first = Math.min(Number(this.samples[0]?.[0] ?? this.end), this.end - LEAST);
    return Math.max(this.end - this.span, first);
  }

  /** @param {number} seconds @param {string} words The same, for people. */
  cover(seconds, words) {
    this.span = seconds;
    this.words = words;
    this._update(true);
  }

  /** Forget all samples: another relay answers now. */
  clear() {
    this.samples = [];
  }

  /** @param {{interval: number, samples: Sample[]}} history What is newer than the last sample. */
  add({ interval, samples }) {
    this.interval = interval;
    // The clock of the relay was set back: it sends all that it has.
    if (samples.length > 0 && Number(samples.at(-1)?.[0]) < this.last) this.samples = [];
    const { last } = this;
    this.samples.push(...samples.filter(([time]) => Number(time) > last));
    const oldest = this.last - HOUR;
    this.samples = this.samples.filter(([time]) => Number(time) >= oldest);
    this._update(!calm.matches || Date.now() - this.drawn >= CALM);
  }

  /** @param {boolean} draw */
  _update(draw) {
    const { start } = this;
    const covered = this.samples.filter(([time]) => Number(time) >= start);
    const rows = withGaps(covered, this.interval);
    for (const plot of this.plots) plot.update(rows, this.words, draw);
    if (draw) this.drawn = Date.now();
  }
}
