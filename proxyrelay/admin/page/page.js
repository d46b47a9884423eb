// The live page of a relay: asks its listener every two seconds, and shows what it says.

import { ClientView } from "./client.js";
import { byId, element, write } from "./dom.js";
import { Events } from "./events.js";
import { Figures, place, state, warnings } from "./figures.js";
import { NodeTable } from "./nodes.js";
import { PairList } from "./pairs.js";
import { Plots } from "./plots.js";
import { Silence, Source, Unauthorized } from "./source.js";
import { ClientTable } from "./table.js";
import { clock, legible, minute } from "./text.js";

const PERIOD = 2_000;

/** Clients whose list may be asked for every second; of more, it is less often. */
const CHEAP = 1_000;

/** The page as a whole: when to ask, and what to do with the answer. */
class Page {
  constructor() {
    this.source = new Source();
    this.figures = new Figures();
    this.nodes = new NodeTable(this.source);
    this.plots = new Plots(byId("plots"));
    this.table = new ClientTable();
    this.events = new Events();
    this.pairs = new PairList(this.source);
    this.client = new ClientView(this.table, this.events, this.pairs);
    /** When the relay was started that answers, in Unix seconds. */
    this.started = 0;
    this.paused = false;
    this.asking = false;
    this.gone = false;
    /** Name of the relay and its address, for the title. */
    this.where = "proxyrelay";
    /** When the list of clients is due, in milliseconds. */
    this.due = 0;
    /** @type {number | null} When the relay has last answered, in Unix seconds. */
    this.answered = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this._listen();
  }

  _listen() {
    byId("pause").addEventListener("click", () => this._pause());
    byId("login")
      .querySelector("form")
      .addEventListener("submit", (/** @type {Event} */ event) => {
        event.preventDefault();
        this._logIn();
      });
    byId("span").addEventListener("change", (/** @type {any} */ { target }) => {
      this.plots.cover(Number(target.value), target.parentElement.textContent.trim());
    });
    document.addEventListener("visibilitychange", () => this.ask());
    window.addEventListener("hashchange", () => this.ask());
  }

  /** Ask now, and go on asking while somebody looks. */
  async ask() {
    clearTimeout(this.timer);
    if (this.asking || this.paused || document.hidden) return;
    this.asking = true;
    try {
      await this._read();
    } catch (error) {
      this._failed(error);
    } finally {
      this.asking = false;
    }
    if (this.paused) this._stand();
    else if (byId("login").hidden) this.timer = setTimeout(() => this.ask(), PERIOD);
  }

  async _read() {
    const status = await this.source.get("status");
    byId("login").hidden = true;
    byId("content").hidden = false;
    // The relay subtracts two clocks, so its start is never quite the same.
    if (Math.abs(status.started - this.started) > 1) this._startOver();
    this.started = status.started;
    const full = Date.now() >= this.due;
    const [history, events, list] = await Promise.all([
      this.source.get(`history?since=${this.plots.last}`),
      this.source.get(`events?since=${this.events.last}`),
      full ? this.source.get("clients") : null,
      this.pairs.update(status),
      this.pairs.read(this.client.uuid),
    ]);
    this.figures.update(status);
    this.nodes.update(status);
    this.plots.add(history);
    this.events.add(events);
    if (list !== null) this._list(list.clients, status.started + status.uptime);
    this.client.update();
    this._answered(status);
  }

  /** Another relay answers than before. */
  _startOver() {
    this.due = 0;
    this.figures.clear();
    this.plots.clear();
    this.events.clear();
  }

  /** @param {import("./table.js").Client[]} clients @param {number} now */
  _list(clients, now) {
    const pause = Math.max(PERIOD, Math.ceil(clients.length / CHEAP) * 1_000);
    this.due = Date.now() + pause - PERIOD / 2;
    this.table.update(clients, now, pause > PERIOD ? `, read every ${pause / 1_000} s` : "");
  }

  /** @param {import("./figures.js").Status} status */
  _answered(status) {
    this.answered = Date.now() / 1000;
    const name = legible(status.name);
    write(byId("relay"), name);
    const urls = status.listening.map(legible);
    write(byId("place"), urls.join(", "));
    this._gone(false);
    const { word, kind } = state(status);
    this._state(word, kind);
    this._notices(warnings(status));
    const at = status.listening.length ? ` (${place(status.listening[0])})` : "";
    this.where = `${name}${at}`;
    this._title(`${status.clients} clients, ${word.toLowerCase()}`);
  }

  /** @param {unknown} error */
  _failed(error) {
    if (error instanceof Unauthorized) this._askForToken();
    else if (error instanceof Silence) this._silent();
    else {
      const why = error instanceof Error ? legible(error.message) : "";
      this._state("Error", "bad");
      this._notices([`The relay answers with an error (${why}). The page asks again.`]);
      this._title("Error");
    }
    this._gone(!(error instanceof Unauthorized));
  }

  _silent() {
    const since = this.answered === null ? "" : ` since ${minute(this.answered)}`;
    this._state("No answer", "bad");
    this._notices([`No answer from the relay${since}. It may be restarting.`]);
    this._title("No answer");
  }

  /** @param {boolean} gone Whether what is shown is no longer true. */
  _gone(gone) {
    if (gone === this.gone) return;
    this.gone = gone;
    document.body.classList.toggle("gone", gone);
    this.plots.repaint();
  }

  /** @param {string} state */
  _title(state) {
    const client = this.client.title;
    const text = `${state} – ${this.where}`;
    document.title = client ? `${legible(client)} – ${text}` : text;
  }

  /** @param {string} word @param {string} kind */
  _state(word, kind) {
    write(byId("state"), word);
    byId("state").className = `tag ${kind}`;
    byId("notices").className = kind;
    write(byId("asof"), this.answered === null ? "" : `as of ${clock(this.answered)}`);
  }

  /** @param {string[]} sentences Said aloud by a screen reader when they change. */
  _notices(sentences) {
    const list = byId("notices");
    const old = [...list.children].map((child) => child.textContent);
    if (old.join("\n") === sentences.join("\n")) return;
    list.replaceChildren(...sentences.map((sentence) => element("p", "notice", sentence)));
  }

  _pause() {
    this.paused = !this.paused;
    write(byId("pause"), this.paused ? "Go on" : "Pause");
    if (this.paused) {
      clearTimeout(this.timer);
      this._stand();
    } else this.ask();
  }

  /** Nothing is asked, so nothing changes. */
  _stand() {
    this._state("Paused", "");
    this._title("Paused");
  }

  _askForToken() {
    if (this.source.hasToken) write(byId("login-why"), "The relay knows no such token.");
    this.source.dropToken();
    byId("content").hidden = true;
    byId("login").hidden = false;
    this._notices([]);
    this._state("Token wanted", "warn");
    document.title = "Token – proxyrelay";
    byId("token").focus();
  }

  _logIn() {
    const field = byId("token");
    const token = field.value.trim();
    field.value = "";
    // Others cannot stand in a header.
    if (/^[\x21-\x7e]+$/.test(token)) {
      this.source.useToken(token);
      this.ask();
    } else write(byId("login-why"), "A token has no such characters.");
  }
}

new Page().ask();
