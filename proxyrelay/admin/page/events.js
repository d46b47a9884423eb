// What happened lately, newest first. The list itself is silent; now and then one sentence
// tells those who listen that it has grown.

import { byId, element, write } from "./dom.js";
import { clock, legible, moment } from "./text.js";

/**
 * @typedef {object} Happening
 * @property {number} number
 * @property {number} time Unix seconds.
 * @property {string} kind
 * @property {string} text May quote what a client chose.
 */

const MOST = 200;

/** Kinds that strangers can cause as often as they like: they go first. */
const ROUTINE = new Set(["refused", "rejected", "failed", "slowed", "shielded"]);

/** Milliseconds between two sentences. */
const QUIET = 15_000;

/** Kinds that somebody should look at. */
const GRAVE = new Set(["refused", "rejected", "failed", "deaf", "fight"]);

/** @param {Happening} event */
function item({ time, kind, text }) {
  const at = element("time", "", clock(time));
  at.dateTime = new Date(time * 1000).toISOString();
  at.title = moment(time);
  const tag = element("span", GRAVE.has(kind) ? "tag warn" : "tag", legible(kind));
  const order = ROUTINE.has(kind) ? "routine" : "";
  return element("li", order, at, " ", tag, " ", element("bdi", "", legible(text)));
}

/** The list of events. */
export class Events {
  constructor() {
    this.list = byId("events");
    this.last = 0;
    this.unsaid = 0;
    this.said = Date.now();
  }

  /** Forget all: another relay counts from the start. */
  clear() {
    this.last = 0;
    this.list.replaceChildren();
  }

  /** @param {{events: Happening[], last: number}} news What came after `last`. */
  add({ events, last }) {
    const first = this.last === 0;
    this.last = last;
    this.list.prepend(...events.map(item).reverse());
    this._trim();
    byId("quiet").hidden = this.list.childElementCount > 0;
    // What was there before the page was is no news.
    if (!first) this._say(events);
  }

  /** Keep the list short. */
  _trim() {
    const surplus = this.list.childElementCount - MOST;
    if (surplus <= 0) return;
    const routine = [...this.list.querySelectorAll(".routine")];
    for (const old of routine.slice(-surplus)) old.remove();
    while (this.list.childElementCount > MOST) this.list.lastElementChild.remove();
  }

  /** @param {Happening[]} events */
  _say(events) {
    this.unsaid += events.length;
    if (this.unsaid === 0 || Date.now() - this.said < QUIET) return;
    const latest = this.list.firstElementChild?.textContent ?? "";
    write(byId("news"), `${this.unsaid} new, the latest: ${latest}`);
    this.unsaid = 0;
    this.said = Date.now();
  }
}
