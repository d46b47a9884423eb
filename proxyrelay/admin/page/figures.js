// The figures at the top, and what an operator has to know at once.

import { arrange, byId, element, write } from "./dom.js";
import { FAULTS, FIGURES, meaning } from "./explain.js";
import { Rates } from "./rates.js";
import { count, duration, latency, legible, moment, NONE, pace } from "./text.js";

/**
 * /status, as the documentation of the listener has it.
 * @typedef {Record<string, any>} Status
 *
 * @typedef {object} Part
 * @property {string} word A reason or a code.
 * @property {number} total
 * @property {number | null} rate
 *
 * @typedef {object} Figure
 * @property {string} name
 * @property {string} value
 * @property {string} more A second line.
 * @property {number | null} [rate] In a second; null if not known yet.
 * @property {string} [level] "warn" or "bad" if somebody should look at it.
 * @property {Part[]} [parts]
 */

/** Seconds of lag that need a look, and those at which clients notice it. */
const LATE = 0.25;
const TOO_LATE = 1;

/** What is said of figures that need attention, by their level. */
const LEVELS = [
  ["warn", "to look at"],
  ["bad", "to act on now"],
];

/** Refusals in a second that need a look. */
const MANY = 1;

/** @param {Record<string, number>} counts @returns {number} */
function sum(counts) {
  return Object.values(counts).reduce((a, b) => a + b, 0);
}

/**
 * @param {Record<string, number>} some
 * @param {Record<string, number>} others
 * @returns {Record<string, number>}
 */
function added(some, others) {
  const all = { ...some };
  for (const [what, n] of Object.entries(others)) all[what] = (all[what] ?? 0) + n;
  return all;
}

/** @param {Record<string, number>} counts @returns {string} such as 4001: 2, 4002: 7 */
function each(counts) {
  return Object.entries(counts)
    .map(([what, n]) => `${legible(what)}: ${count(n)}`)
    .join(", ");
}

/** @param {number} n @param {string} what @returns {string} such as 2 users */
function several(n, what) {
  return `${count(n)} ${what}${n === 1 ? "" : "s"}`;
}

/** @param {string} url @returns {string} Its host and port. */
export function place(url) {
  return legible(url.replace(/^wss?:\/\//, ""));
}

/** @param {Status} status @returns {number | null} Seconds until the certificate expires. */
function left(status) {
  return status.certificate && status.certificate.expires - (status.started + status.uptime);
}

/** @param {Status} status @returns {boolean} Whether the certificate is due for renewal. */
function due(status) {
  return status.certificate.renewal < status.started + status.uptime;
}

/** @param {Status} status @returns {Figure} */
function certificate(status) {
  const name = "Certificate";
  const rest = left(status);
  if (rest === null) return { name, value: "none", more: status.tls ? "" : "served without TLS" };
  const more = `until ${moment(status.certificate.expires)}`;
  if (rest <= 0) return { name, value: "expired", more, level: "bad" };
  return { name, value: `${duration(rest)} left`, more, level: due(status) ? "warn" : "" };
}

/** @param {Status} status @returns {Figure} */
function authentication({ authentication: method, globus }) {
  const name = "Authentication";
  if (method === "none") return { name, value: "none", more: "everybody is one user" };
  const breaker = globus?.breaker ?? NONE;
  return {
    name,
    value: method === "globus" ? "Globus Auth" : legible(method),
    more: `breaker ${breaker}`,
    level: breaker === "closed" ? "" : "bad",
  };
}

/** @param {Status} status @returns {Record<string, number>} All that grows, by name. */
function totals({ forwarded, registrations, returned, dropped, refused, rejected }) {
  const unforwarded = added(returned, dropped);
  const unserved = added(refused, rejected);
  return {
    ...unforwarded,
    ...unserved,
    Offers: forwarded.offer,
    Answers: forwarded.answer,
    Registrations: registrations,
    "Not passed on": sum(unforwarded),
    Refused: sum(unserved),
  };
}

/** @param {Record<string, number>} counts @param {Rates} rates @returns {Part[]} */
function parts(counts, rates) {
  return Object.entries(counts).map(([word, total]) => ({ word, total, rate: rates.of(word) }));
}

/** @param {Status} status @returns {Figure} */
function unanswered({ unanswered: { clients, most } }) {
  const level = most >= 2 ? "warn" : "";
  const more = most ? `${several(most, "offer")} in a row at most` : "all offers are answered";
  return { name: "Unanswered", value: several(clients, "client"), more, level };
}

/** @param {Status} status @returns {Figure} */
function lag({ lag: { p99, max } }) {
  const level = p99 >= TOO_LATE ? "bad" : p99 >= LATE ? "warn" : "";
  const more = `at most ${latency(max)} in a minute`;
  return { name: "Event loop lag", value: latency(p99), more, level };
}

/** @param {Status} status @returns {Figure[]} None if the relay keeps no connections. */
function kept({ survival, connections }) {
  const name = "Kept connections";
  if (!survival) return [];
  if (!survival.works) {
    return [{ name, value: "none", more: "the supervisor has gone", level: "bad" }];
  }
  const back = `${count(survival.resumed)} back after the last start`;
  const more = survival.lost ? `${back}, ${count(survival.lost)} lost` : back;
  const level = survival.unkept ? "warn" : "";
  const value = `${count(survival.kept)} of ${count(connections)}`;
  return [{ name, value, more: survival.unkept ? `no room for more; ${more}` : more, level }];
}

/** @param {Status} status @returns {Figure[]} */
function pairs({ reach }) {
  if (!reach) return [];
  const { unconnected_pairs: total, private_only: near } = reach;
  const more = `${several(near, "client")} with private addresses only`;
  return [{ name: "Unconnected pairs", value: count(total), more, level: total ? "warn" : "" }];
}

/** @param {Status} status @param {Rates} rates @returns {Figure[]} */
function figures(status, rates) {
  const { forwarded, returned, dropped, held, refused, rejected } = status;
  const { median } = status.offer_to_answer;
  const wait = status.offer_wait.median;
  const unforwarded = added(returned, dropped);
  const unserved = added(refused, rejected);
  const come = several(status.registrations, "registration");
  const faults = [...FAULTS].filter((reason) => rates.growth(reason) > 0);
  return [
    {
      name: "Clients",
      value: count(status.clients),
      more: `${several(status.connections, "connection")}; ${come}, ${pace(rates.of("Registrations"))}`,
    },
    {
      name: "Users",
      value: status.authentication === "none" ? NONE : count(status.users),
      more: status.authentication === "none" ? "no authentication" : "",
    },
    {
      name: "Offers",
      value: count(forwarded.offer),
      rate: rates.of("Offers"),
      more: `${count(held)} held` + (wait === null ? "" : `, ${latency(wait)} wait`),
    },
    {
      name: "Answers",
      value: count(forwarded.answer),
      rate: rates.of("Answers"),
      more: median === null ? "none timed yet" : `${latency(median)} after the offer`,
    },
    {
      name: "Not passed on",
      value: count(sum(unforwarded)),
      rate: rates.of("Not passed on"),
      more: each(unforwarded),
      level: faults.length ? "warn" : "",
      parts: parts(unforwarded, rates),
    },
    {
      name: "Refused",
      value: count(sum(unserved)),
      rate: rates.of("Refused"),
      more: each(unserved),
      level: Number(rates.of("Refused")) >= MANY ? "warn" : "",
      parts: parts(unserved, rates),
    },
    unanswered(status),
    ...pairs(status),
    lag(status),
    ...kept(status),
    authentication(status),
    certificate(status),
    { name: "Version", value: legible(status.version), more: `process ${status.pid}` },
    { name: "Uptime", value: duration(status.uptime), more: `since ${moment(status.started)}` },
  ];
}

/** @param {Status} status @returns {string[]} Sentences. */
export function warnings(status) {
  const said = status.reasons.map(
    (/** @type {string} */ reason) => `Not ready: ${legible(reason)}`,
  );
  for (const reason of status.degraded) said.push(`Degraded: ${legible(reason)}`);
  if (status.draining) said.push("Draining: no new clients, and the end when all have left.");
  const rest = left(status);
  if (rest !== null && rest > 0 && due(status)) {
    said.push(`The certificate expires in ${duration(rest)}: renew it.`);
  }
  if (status.globus && status.globus.breaker !== "closed") {
    said.push("Globus Auth does not answer: new clients are asked to come back.");
  }
  return said;
}

/** @param {Status} status @returns {{word: string, kind: string}} Its state in a word. */
export function state({ ready, draining, degraded }) {
  if (draining) return { word: "Draining", kind: "warn" };
  if (ready && degraded.length) return { word: "Degraded", kind: "warn" };
  return ready ? { word: "Ready", kind: "good" } : { word: "Not ready", kind: "bad" };
}

/** A figure, which stays the same element while it changes: what is open stays open. */
class Card {
  /** @param {string} name */
  constructor(name) {
    this.value = element("span", "value");
    this.rate = element("span", "rate");
    this.more = element("span", "more");
    this.parts = element("ul", "parts");
    /** @type {Map<string, {row: any, figures: any}>} */
    this.known = new Map();
    const about = element("summary", "", element("span", "unseen", `About: ${name}`));
    const words = element("p", "", FIGURES[name] ?? "");
    this.element = element(
      "div",
      "card",
      element("dt", "", name),
      element("dd", "", this.value, " ", this.rate, " ", this.more),
      element("dd", "", element("details", "about", about, words, this.parts)),
    );
  }

  /** @param {Figure} figure */
  update({ value, rate, more, level = "", parts: some = [] }) {
    write(this.value, value);
    write(this.rate, rate === undefined ? "" : pace(rate));
    write(this.more, more);
    this.element.className = `card ${level}`;
    arrange(
      this.parts,
      some.map((part) => this._part(part)),
    );
  }

  /** @param {Part} part */
  _part({ word, total, rate }) {
    const known = this.known.get(word) ?? this._make(word);
    write(known.figures, `${count(total)} ${pace(rate)}`);
    return known.row;
  }

  /** @param {string} word */
  _make(word) {
    const figures = element("span", "number");
    const row = element(
      "li",
      "",
      ...[element("b", "", legible(word)), " ", figures, " ", meaning(word)],
    );
    const made = { row, figures };
    this.known.set(word, made);
    return made;
  }
}

/** The list of figures. */
export class Figures {
  constructor() {
    this.rates = new Rates();
    /** @type {Map<string, Card>} */
    this.cards = new Map();
  }

  /** Forget how fast totals grew: another relay counts from the start. */
  clear() {
    this.rates.clear();
  }

  /** @param {Status} status */
  update(status) {
    this.rates.add(status.uptime, totals(status));
    const all = figures(status, this.rates);
    for (const [kind, what] of LEVELS) {
      const some = all.filter(({ level }) => level === kind).length;
      write(byId(`figures-${kind}`), `${count(some)} ${what}`);
      byId(`figures-${kind}`).hidden = some === 0;
    }
    const shown = all.map((figure) => {
      const card = this.cards.get(figure.name) ?? new Card(figure.name);
      this.cards.set(figure.name, card);
      card.update(figure);
      return card.element;
    });
    arrange(byId("figures"), shown);
  }
}
