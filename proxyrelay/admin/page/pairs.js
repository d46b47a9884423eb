// Pairs of clients that exchange offers and answers again and again: they do not connect.

import { arrange, byId, element, write } from "./dom.js";
import { clientLink } from "./events.js";
import { CANDIDATES, CAUSES, glossary } from "./explain.js";
import { count, duration, legible } from "./text.js";

/**
 * @typedef {object} Side
 * @property {string} uuid
 * @property {string | null} name Null if the client is not here.
 * @property {string[] | null} candidates
 *
 * @typedef {object} Pair
 * @property {Side} source
 * @property {Side} target
 * @property {number} exchanges
 * @property {number} since Unix seconds.
 * @property {number} last Unix seconds.
 * @property {string} cause In a word.
 * @property {string} text The same in a sentence.
 */

/** Pairs that are shown at once. */
const MOST = 50;

/** Pairs whose list may be asked for every second; of more, it is less often. */
const CHEAP = 1_000;

const KINDS = new Set(["host", "srflx", "relay"]);

/** @param {string[]} words @returns {string[]} How the addresses were learnt. */
export function kinds(words) {
  return words.filter((word) => KINDS.has(word));
}

/** @param {string[] | null} words @returns {string} such as host, srflx (private IPv4) */
export function candidates(words) {
  if (words === null) return "no offer yet";
  const places = words.filter((word) => !KINDS.has(word)).map((word) => word.replace("_ip", " IP"));
  const learnt = kinds(words).join(", ");
  return learnt ? `${learnt} (${places.map(legible).join(", ")})` : "none";
}

/** @param {string[] | null} words @returns {boolean} Whether only peers nearby can reach it. */
export function isPrivate(words) {
  if (words === null || words.length === 0) return false;
  return !words.some((word) => word === "relay" || word.startsWith("public"));
}

/** A pair, which stays the same element as long as it is shown: links keep the focus. */
class Item {
  /** @param {Pair} pair */
  constructor({ source, target }) {
    this.counts = element("span", "muted");
    this.cause = element("p", "cause");
    this.sides = [source, target].map(() => element("span", "muted"));
    const [one, other] = [source, target].map(({ uuid, name }) => clientLink(uuid, name ?? ""));
    this.element = element(
      "li",
      "",
      element("p", "", one, " ", this.sides[0], " and ", other, " ", this.sides[1]),
      this.cause,
      this.counts,
    );
  }

  /** @param {Pair} pair @param {number} now */
  update(pair, now) {
    [pair.source, pair.target].forEach((side, i) =>
      write(this.sides[i], candidates(side.candidates)),
    );
    write(this.cause, `Likely cause: ${legible(pair.text)}`);
    const age = `in ${duration(pair.last - pair.since)}, the last one ${duration(now - pair.last)} ago`;
    write(this.counts, `${count(pair.exchanges)} offers with answers ${age}`);
  }
}

/** The list of pairs, and the same for one client. */
export class PairList {
  /** @param {import("./source.js").Source} source */
  constructor(source) {
    this.source = source;
    /** @type {Pair[]} */
    this.pairs = [];
    /** @type {Map<string, Item>} */
    this.items = new Map();
    /** When the list is due, in milliseconds. */
    this.due = 0;
    byId("pairs-help").append(glossary(CAUSES), glossary(CANDIDATES));
  }

  /** @param {import("./figures.js").Status} status */
  async update({ reach, started, uptime }) {
    const total = reach?.unconnected_pairs ?? 0;
    byId("unconnected").hidden = total === 0;
    if (total === 0) this.pairs = [];
    else if (Date.now() >= this.due) {
      this.pairs = (await this.source.get("pairs")).pairs;
      this.due = Date.now() + Math.floor(total / CHEAP) * 1_000;
    }
    const shown = this.pairs.slice(0, MOST);
    this._show(byId("pairs"), shown, started + uptime);
    write(byId("pairs-shown"), `${count(shown.length)} of ${count(total)} shown`);
  }

  /** @param {Element} list @param {Pair[]} pairs @param {number} now */
  _show(list, pairs, now) {
    const items = new Map(
      pairs.map((pair) => {
        const key = [pair.source.uuid, pair.target.uuid].join(" ");
        const item = this.items.get(key) ?? new Item(pair);
        item.update(pair, now);
        return [key, item];
      }),
    );
    this.items = items;
    arrange(
      list,
      [...items.values()].map((item) => item.element),
    );
  }

  /** @param {string} uuid @param {number} now @returns {any[]} The pairs of a client. */
  of(uuid, now) {
    return this.pairs
      .filter(({ source, target }) => source.uuid === uuid || target.uuid === uuid)
      .map((pair) => {
        const item = new Item(pair);
        item.update(pair, now);
        return item.element;
      });
  }
}
