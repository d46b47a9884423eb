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
 * @property {boolean} unconnected False if it may have connected.
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

/**
 * @param {Pair} pair
 * @param {string} own A client whose own view this is; empty in the overview.
 * @returns {Side[]} Those who are shown.
 */
function sides({ source, target }, own) {
  return [source, target].filter(({ uuid }) => uuid !== own);
}

/** @param {Pair} pair @param {number} now @returns {string} How often it has exchanged offers. */
function exchanges({ exchanges: many, since, last }, now) {
  const ago = `${duration(now - last)} ago`;
  if (many === 1) return `one answered offer, ${ago}`;
  return `${count(many)} answered offers in ${duration(last - since)}, the last one ${ago}`;
}

/** A pair, which stays the same element as long as it is shown: links keep the focus. */
class Item {
  /** @param {Pair} pair @param {string} own */
  constructor(pair, own) {
    this.own = own;
    this.counts = element("p", "muted");
    this.cause = element("p", "cause");
    const shown = sides(pair, own);
    this.candidates = shown.map(() => element("span", "muted"));
    const rows = shown.map(({ uuid, name }, i) =>
      element("p", "", clientLink(uuid, name ?? ""), " ", this.candidates[i]),
    );
    this.element = element("li", "", ...rows, this.cause, this.counts);
  }

  /** @param {Pair} pair @param {number} now */
  update(pair, now) {
    sides(pair, this.own).forEach((side, i) =>
      write(this.candidates[i], candidates(side.candidates)),
    );
    const why = `(${pair.cause.replace("_", " ")}): ${pair.text}`;
    write(this.cause, `They do not connect. Likely cause ${legible(why)}`);
    this.cause.hidden = !pair.unconnected;
    write(this.counts, exchanges(pair, now));
  }
}

/**
 * @param {Element} list
 * @param {Map<string, Item>} before The items that are shown.
 * @param {Pair[]} pairs
 * @param {number} now
 * @param {string} own
 * @returns {Map<string, Item>} The items from now on.
 */
function show(list, before, pairs, now, own) {
  const items = new Map();
  for (const pair of pairs) {
    const key = [own, pair.source.uuid, pair.target.uuid].join(" ");
    const item = before.get(key) ?? new Item(pair, own);
    item.update(pair, now);
    items.set(key, item);
  }
  arrange(
    list,
    [...items.values()].map((item) => item.element),
  );
  return items;
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
    /** @type {Pair[]} Those of one client, also if they have connected. */
    this.peers = [];
    this.client = "";
    /** @type {Map<string, Item>} */
    this.near = new Map();
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
    this.items = show(byId("pairs"), this.items, shown, started + uptime, "");
    write(byId("pairs-shown"), `${count(shown.length)} of ${count(total)} shown`);
  }

  /** @param {string} uuid The client whose peers are wanted; empty for none. */
  async read(uuid) {
    this.peers = uuid ? (await this.source.get(`pairs?client=${uuid}`)).pairs : [];
    this.client = uuid;
  }

  /** @param {string} uuid @param {number} now Show the peers of a client. */
  show(uuid, now) {
    const peers = this.client === uuid ? this.peers : [];
    byId("client-peers").hidden = peers.length === 0;
    this.near = show(byId("client-pairs"), this.near, peers, now, uuid);
  }
}
