// One client by itself, at the address "#client=" and its UUID.

import { arrange, byId, element, write } from "./dom.js";
import { level, MARKS } from "./explain.js";
import { candidates } from "./pairs.js";
import { marksOf, TROUBLE } from "./table.js";
import { count, duration, legible, moment, NONE } from "./text.js";

const ADDRESS = /^#client=([0-9a-f-]{36})$/;

/**
 * @param {import("./table.js").Client} client
 * @param {number} now Of the relay, in Unix seconds.
 * @returns {[string, string][]} What is known of it.
 */
function facts(client, now) {
  const { last_offer: offer } = client;
  return [
    ["User", legible(client.user)],
    ["Address", legible(client.address)],
    ["Connected", `${duration(now - client.since)}, since ${moment(client.since)}`],
    ["Last offer", offer === null ? NONE : `${duration(now - offer)} ago`],
    ["Candidates", candidates(client.candidates ?? null)],
    ["Messages sent", count(client.sent)],
    ["Messages received", count(client.received)],
    ["Unanswered", client.unanswered ? `${count(client.unanswered)} offers in a row` : "none"],
  ];
}

/** The view of one client, in the place of the overview. */
export class ClientView {
  /**
   * @param {import("./table.js").ClientTable} table
   * @param {import("./events.js").Events} events
   * @param {import("./pairs.js").PairList} pairs
   */
  constructor(table, events, pairs) {
    this.pairs = pairs;
    this.table = table;
    this.events = events;
    /** @type {Map<string, any>} */
    this.facts = new Map();
    this.uuid = "";
    /** @type {import("./table.js").Client | undefined} */
    this.client = undefined;
    /** Number of the last event that is shown. */
    this.shown = -1;
    window.addEventListener("hashchange", () => this._go());
    this._turn();
  }

  /** @returns {string} What the client calls itself, or its UUID; empty in the overview. */
  get title() {
    return this.uuid && (this.client?.name || this.events.names.get(this.uuid) || this.uuid);
  }

  /** The address in the browser has changed. */
  _go() {
    const before = this.uuid;
    this._turn();
    if (this.uuid) {
      window.scrollTo(0, 0);
      byId("client-title").focus();
    } else if (before) {
      const link = this.table.link(before) ?? byId("clients");
      link.scrollIntoView({ block: "nearest" });
      link.focus();
    }
  }

  _turn() {
    this.uuid = ADDRESS.exec(location.hash)?.[1] ?? "";
    this.shown = -1;
    byId("client").hidden = !this.uuid;
    byId("overview").hidden = Boolean(this.uuid);
    this.update();
  }

  /** Show what is known now. */
  update() {
    if (!this.uuid) return;
    this.client = this.table.find(this.uuid);
    write(byId("client-title"), legible(this.title));
    write(byId("client-uuid"), this.uuid);
    byId("client-uuid").hidden = this.title === this.uuid;
    byId("client-gone").hidden = Boolean(this.client);
    byId("client-facts").hidden = !this.client;
    this._facts(this.client ? facts(this.client, this.table.now) : []);
    this._advice(this.client ? marksOf(this.client) : []);
    this.pairs.show(this.uuid, this.table.now);
    const { last } = this.events;
    if (this.shown === last) return;
    this.shown = last;
    const items = this.events.about(this.uuid);
    byId("client-events").replaceChildren(...items);
    byId("client-quiet").hidden = items.length > 0;
  }

  /** @param {[string, string][]} facts */
  _facts(facts) {
    const rows = facts.map(([name, value]) => {
      const known = this.facts.get(name) ?? this._make(name);
      write(known.value, value);
      const warns = name === "Unanswered" && Number(this.client?.unanswered) >= TROUBLE;
      known.row.classList.toggle("warn", warns);
      return known.row;
    });
    arrange(byId("client-facts"), rows);
  }

  /** @param {string} name */
  _make(name) {
    const value = element("bdi");
    const row = element("div", "card", element("dt", "", name), element("dd", "", value));
    const made = { row, value };
    this.facts.set(name, made);
    return made;
  }

  /** @param {string[]} marks */
  _advice(marks) {
    const list = byId("client-marks");
    if (list.dataset.marks === marks.join(" ")) return;
    list.dataset.marks = marks.join(" ");
    list.replaceChildren(
      ...marks.map((mark) =>
        element("li", "", element("span", `mark ${level(mark)}`, legible(mark)), " ", MARKS[mark]),
      ),
    );
  }
}
