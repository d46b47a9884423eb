// What happened lately, newest first. The list itself is silent; now and then one sentence
// tells those who listen that it has grown.

import { arrange, byId, element, write } from "./dom.js";
import { glossary, KINDS, level } from "./explain.js";
import { clock, legible, moment } from "./text.js";

/**
 * @typedef {object} Happening
 * @property {number} number
 * @property {number} time Unix seconds.
 * @property {string} kind
 * @property {string} text May quote what a client chose.
 * @property {Record<string, string>} names What clients call themselves, by UUID.
 */

/** Kept events of each kind: none pushes out events of another kind. */
const MOST = 40;

/** Milliseconds between two sentences. */
const QUIET = 15_000;

const UUID = /([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/;

/** @type {Record<string, Set<string>>} Kinds by what the reader asks for. */
const GROUPS = {
  clients: new Set(["registered", "left", "replaced", "fight", "deaf"]),
  messages: new Set(["returned", "shielded", "unconnected", "private_only"]),
  strangers: new Set(["refused", "rejected", "failed", "slowed"]),
};

/**
 * @param {string} uuid
 * @param {string} name Empty if it is not known.
 * @returns {any} A link to the client's own view.
 */
export function clientLink(uuid, name) {
  const words = name ? element("bdi", "name", legible(name)) : element("code", "", uuid);
  const link = element("a", "client", words);
  if (name) link.append(" ", element("code", "", `${uuid.slice(0, 8)}…`));
  link.href = `#client=${uuid}`;
  link.title = uuid;
  return link;
}

/** The list of events. */
export class Events {
  constructor() {
    this.list = byId("events");
    this.choice = byId("kind");
    this.choice.addEventListener("change", () => this._show());
    byId("events-help").append(glossary(KINDS, "tag"));
    this.last = 0;
    /** @type {Map<string, Happening[]>} */
    this.kept = new Map();
    /** @type {Map<number, any>} */
    this.items = new Map();
    /** @type {Map<string, string>} */
    this.names = new Map();
    this.said = Date.now();
    this.unsaid = 0;
  }

  /** Forget all: another relay counts from the start. */
  clear() {
    this.last = 0;
    this.kept.clear();
    this.items.clear();
    this.names.clear();
    this._show();
  }

  /** @param {{events: Happening[], last: number}} news What came after `last`. */
  add({ events, last }) {
    const first = this.last === 0;
    this.last = last;
    for (const event of events) {
      const kept = this.kept.get(event.kind) ?? [];
      this.kept.set(event.kind, [...kept, event].slice(-MOST));
    }
    if (events.length === 0) return;
    const uuids = this._all().flatMap(({ names }) => Object.entries(names ?? {}));
    this.names = new Map(uuids.reverse());
    this._show();
    // What was there before the page was is no news.
    if (!first) this._say(events);
  }

  /** @param {string} uuid @returns {any[]} The items about a client, newest first. */
  about(uuid) {
    return this._all()
      .filter(({ text }) => text.includes(uuid))
      .map((event) => this._item(event));
  }

  /** @returns {Happening[]} All that is kept, newest first. */
  _all() {
    return [...this.kept.values()].flat().sort((a, b) => b.number - a.number);
  }

  _show() {
    const chosen = this.choice.value;
    const shown = this._all().filter(
      ({ kind }) => !chosen || (chosen === "attention" ? level(kind) : GROUPS[chosen].has(kind)),
    );
    this.items = new Map(
      shown.map((event) => [event.number, this.items.get(event.number) ?? this._item(event)]),
    );
    arrange(this.list, [...this.items.values()]);
    byId("quiet").hidden = shown.length > 0;
  }

  /** @param {Happening} event */
  _item({ time, kind, text }) {
    const at = element("time", "", clock(time));
    at.dateTime = new Date(time * 1000).toISOString();
    at.title = moment(time);
    const words = text
      .split(UUID)
      .map((part, i) => (i % 2 ? clientLink(part, this.names.get(part) ?? "") : legible(part)));
    const tag = element("span", `tag ${level(kind)}`, legible(kind.replace("_", " ")));
    return element("li", "", at, " ", tag, " ", element("span", "words", ...words));
  }

  /** @param {Happening[]} events */
  _say(events) {
    this.unsaid += events.length;
    if (Date.now() - this.said < QUIET) return;
    const latest = this.list.firstElementChild?.textContent ?? "";
    write(byId("news"), `${this.unsaid} new, the latest: ${latest}`);
    this.unsaid = 0;
    this.said = Date.now();
  }
}
