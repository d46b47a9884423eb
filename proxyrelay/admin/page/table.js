// The table of clients: searched, sorted, and no longer than a page can bear.

import { arrange, byId, element, write } from "./dom.js";
import { CANDIDATES, COLUMNS as ABOUT, glossary, level, MARKS } from "./explain.js";
import { candidates, isPrivate, kinds } from "./pairs.js";
import { count, duration, legible, moment, NONE } from "./text.js";

/**
 * @typedef {object} Client
 * @property {string} uuid
 * @property {string} name Chosen by the client.
 * @property {string} user
 * @property {string} address
 * @property {number} since Unix seconds.
 * @property {number | null} last_offer Unix seconds.
 * @property {number} sent
 * @property {number} received
 * @property {number} unanswered Offers in a row to this client.
 * @property {string[]} marks
 * @property {string[] | null} [candidates] Kinds of its addresses; null before its first offer.
 *
 * @typedef {keyof Client} Column
 */

/** Rows that are shown at once. */
const MOST = 200;

/** Unanswered offers in a row that need a look. */
export const TROUBLE = 2;

/** Milliseconds without a keystroke after which the number found is said. */
const SETTLED = 700;

/** @type {Column[]} */
const COLUMNS = [
  "name",
  "marks",
  "uuid",
  "user",
  "address",
  "candidates",
  "since",
  "last_offer",
  "sent",
  "received",
  "unanswered",
];
/** @type {Record<string, string>} */
const LABELS = {
  address: "From",
  candidates: "Candidates",
  user: "User",
  since: "Connected",
  last_offer: "Last offer",
  sent: "Sent",
  received: "Received",
  unanswered: "Unanswered",
};
const NUMBERS = new Set(["since", "last_offer", "sent", "received", "unanswered"]);

/** Columns that show how long ago something was: the youngest is the least. */
const AGES = new Set(["since", "last_offer"]);

/** @param {Client} client @returns {string[]} The marks of the relay, and those of this page. */
export function marksOf({ marks, candidates: words }) {
  return isPrivate(words ?? null) ? [...marks, "private"] : marks;
}

/** @param {Client} client @param {Column} column @returns {number | string | null} */
function key(client, column) {
  const value = (column === "marks" ? marksOf(client) : client[column]) ?? null;
  if (AGES.has(column)) return value === null ? null : -Number(value);
  if (Array.isArray(value)) return value.length ? value.join(" ") : null;
  return typeof value === "string" ? value.toLowerCase() : value;
}

/** @param {Client} client @returns {string} All that a search looks at. */
function haystack(client) {
  const { name, uuid, user, address, candidates: words } = client;
  const others = [...marksOf(client), ...(words ?? [])].join(" ");
  return `${name}\n${uuid}\n${user}\n${address}\n${others}`.toLowerCase();
}

/**
 * @param {Client[]} clients
 * @param {string} wanted Words that all have to be found.
 * @returns {Client[]}
 */
export function search(clients, wanted) {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return clients;
  return clients.filter((client) => {
    const text = haystack(client);
    return words.every((word) => text.includes(word));
  });
}

/**
 * @param {Client[]} clients
 * @param {Column} column
 * @param {boolean} descending
 * @returns {Client[]} In order; those without a value come last either way.
 */
export function sort(clients, column, descending) {
  const sign = descending ? -1 : 1;
  return clients
    .map((client) => ({ client, key: key(client, column) }))
    .sort((a, b) => {
      if (a.key !== b.key) {
        if (a.key === null) return 1;
        if (b.key === null) return -1;
        return a.key < b.key ? -sign : sign;
      }
      return a.client.uuid < b.client.uuid ? -1 : 1;
    })
    .map(({ client }) => client);
}

/** A row, which stays the same element as long as its client is shown. */
class Row {
  constructor() {
    /** @type {HTMLElement[]} */
    this.texts = COLUMNS.map(() => element("bdi"));
    const cells = COLUMNS.map((column, i) => {
      const cell = element(
        i === 0 ? "th" : "td",
        NUMBERS.has(column) ? "number" : column,
        this.texts[i],
      );
      if (i === 0) cell.scope = "row";
      // Named, since a narrow screen shows the cells as a list.
      cell.setAttribute("role", i === 0 ? "rowheader" : "cell");
      cell.dataset.label = LABELS[column] ?? "";
      return cell;
    });
    this.marks = "";
    this.link = element("a");
    this.texts[0].append(this.link);
    this.element = element("tr", "", ...cells);
    this.element.setAttribute("role", "row");
  }

  /** @param {Client} client @param {number} now Of the relay, in Unix seconds. */
  update(client, now) {
    const [, marks, uuid, user, address, reach, since, offer, sent, received, unanswered] =
      this.texts;
    this._write(this.link, legible(client.name) || "(no name)");
    this.link.href = `#client=${client.uuid}`;
    this._write(uuid, legible(client.uuid));
    this._write(user, legible(client.user));
    this._write(address, legible(client.address));
    write(reach, kinds(client.candidates ?? []).join(", "));
    reach.title = candidates(client.candidates ?? null);
    this._age(since, client.since, now, "");
    this._age(offer, client.last_offer, now, " ago");
    write(sent, count(client.sent));
    write(received, count(client.received));
    write(unanswered, count(client.unanswered));
    unanswered.className = client.unanswered >= TROUBLE ? "warn" : "";
    this._mark(marks, marksOf(client));
  }

  /** @param {HTMLElement} node @param {string} text */
  _write(node, text) {
    write(node, text);
    if (node.title !== text) node.title = text;
  }

  /**
   * @param {HTMLElement} node
   * @param {number | null} time
   * @param {number} now
   * @param {string} word What follows.
   */
  _age(node, time, now, word) {
    write(node, time === null ? NONE : duration(now - time) + word);
    const title = time === null ? "" : moment(time);
    if (node.title !== title) node.title = title;
  }

  /** @param {HTMLElement} node @param {string[]} marks */
  _mark(node, marks) {
    const text = marks.join(" ");
    if (text === this.marks) return;
    this.marks = text;
    const made = marks.map((mark) => element("span", `mark ${level(mark)}`, legible(mark)));
    node.replaceChildren(...made.flatMap((mark) => [mark, " "]));
  }
}

/** The table, with its search field and the buttons in its heading. */
export class ClientTable {
  constructor() {
    /** @type {Client[]} */
    this.clients = [];
    /** @type {Map<string, Row>} */
    this.rows = new Map();
    this.now = 0;
    this.matches = 0;
    /** @type {Column} */
    this.column = "name";
    this.descending = false;
    this.note = "";
    this.body = byId("rows");
    this.field = byId("wanted");
    /** @type {any[]} */
    this.buttons = [...document.querySelectorAll("#clients th button")];
    for (const button of this.buttons) {
      button.addEventListener("click", () => this._sortBy(button));
    }
    this.field.addEventListener("input", () => this._search());
    this.order = byId("order");
    this.order.addEventListener("change", () => {
      const column = this.order.value.replace("-", "");
      this._order(column, this.order.value.startsWith("-"));
    });
    byId("clients-help").append(
      ...[glossary(MARKS, "mark"), glossary(ABOUT), glossary(CANDIDATES)],
    );
  }

  /** @param {string} uuid @returns {Client | undefined} A connected client. */
  find(uuid) {
    return this.clients.find((client) => client.uuid === uuid);
  }

  /** @param {string} uuid @returns {any} The link to a client, if its row is shown. */
  link(uuid) {
    return this.rows.get(uuid)?.link;
  }

  /** @param {Client[]} clients @param {number} now @param {string} note How often they are read. */
  update(clients, now, note) {
    this.clients = clients;
    this.now = now;
    this.note = note;
    this._show();
  }

  /** @param {any} button */
  _sortBy(button) {
    const { column } = button.dataset;
    this._order(column, column === this.column && !this.descending);
  }

  /** @param {Column} column @param {boolean} descending */
  _order(column, descending) {
    this.column = column;
    this.descending = descending;
    this.order.value = descending ? `-${column}` : column;
    for (const button of this.buttons) {
      const heading = button.closest("th");
      if (button.dataset.column !== column) heading.removeAttribute("aria-sort");
      else heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    }
    this._show();
  }

  _search() {
    this._show();
    clearTimeout(this.settling);
    this.settling = setTimeout(() => write(byId("found"), `${count(this.matches)} found`), SETTLED);
  }

  _show() {
    const found = search(this.clients, this.field.value);
    const shown = sort(found, this.column, this.descending).slice(0, MOST);
    this.matches = found.length;
    const rows = new Map(
      shown.map((client) => [client.uuid, this.rows.get(client.uuid) ?? new Row()]),
    );
    for (const client of shown) rows.get(client.uuid)?.update(client, this.now);
    arrange(
      this.body,
      [...rows.values()].map((row) => row.element),
    );
    this.rows = rows;
    write(byId("shown"), this._words(shown.length));
  }

  /** @param {number} shown @returns {string} */
  _words(shown) {
    const all = this.clients.length;
    const matching = this.matches === all ? "" : `, ${count(this.matches)} match`;
    return `${count(shown)} of ${count(all)} shown${matching}${this.note}`;
  }
}
