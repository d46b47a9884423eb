// The figures at the top, and what an operator has to know at once.

import { arrange, byId, element, write } from "./dom.js";
import { count, duration, latency, legible, moment, NONE } from "./text.js";

/**
 * /status, as the documentation of the listener has it.
 * @typedef {Record<string, any>} Status
 *
 * @typedef {object} Figure
 * @property {string} name
 * @property {string} value
 * @property {string} more A second line.
 * @property {boolean} [warn]
 */

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
function place(url) {
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
  if (rest <= 0) return { name, value: "expired", more, warn: true };
  return { name, value: `${duration(rest)} left`, more, warn: due(status) };
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
    warn: breaker !== "closed",
  };
}

/** @param {Status} status @returns {Figure[]} */
function figures(status) {
  const { forwarded, returned, dropped, held, refused, rejected, lag } = status;
  const { median } = status.offer_to_answer;
  const wait = status.offer_wait.median;
  return [
    {
      name: "Clients",
      value: count(status.clients),
      more: several(status.connections, "connection"),
    },
    {
      name: "Users",
      value: status.authentication === "none" ? NONE : count(status.users),
      more: several(status.registrations, "registration"),
    },
    {
      name: "Offers",
      value: count(forwarded.offer),
      more: `${count(held)} held` + (wait === null ? "" : `, ${latency(wait)} wait`),
    },
    {
      name: "Answers",
      value: count(forwarded.answer),
      more: median === null ? "none timed yet" : `${latency(median)} after the offer`,
    },
    {
      name: "Not passed on",
      value: count(sum(returned) + sum(dropped)),
      more: each(added(returned, dropped)),
    },
    {
      name: "Refused",
      value: count(sum(refused) + sum(rejected)),
      more: each(added(refused, rejected)),
    },
    {
      name: "Event loop lag",
      value: latency(lag.p99),
      more: `at most ${latency(lag.max)} in a minute`,
    },
    authentication(status),
    certificate(status),
    {
      name: "Listening",
      value: status.tls ? "wss" : "ws",
      more: status.listening.map(place).join(", "),
    },
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

/** The list of figures. */
export class Figures {
  constructor() {
    /** @type {Map<string, {row: any, value: any, more: any}>} */
    this.shown = new Map();
  }

  /** @param {Status} status */
  update(status) {
    const rows = figures(status).map((figure) => this._row(figure));
    arrange(byId("figures"), rows);
  }

  /** @param {Figure} figure */
  _row({ name, value, more, warn }) {
    const known = this.shown.get(name) ?? this._make(name);
    write(known.value, value);
    write(known.more, more);
    known.row.classList.toggle("warn", Boolean(warn));
    return known.row;
  }

  /** @param {string} name */
  _make(name) {
    const value = element("span", "value");
    const more = element("span", "more");
    const row = element(
      "div",
      "card",
      element("dt", "", name),
      element("dd", "", value, " ", more),
    );
    const made = { row, value, more };
    this.shown.set(name, made);
    return made;
  }
}
