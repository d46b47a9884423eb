// The table of nodes, if the relay is in a cluster.

import { arrange, byId, element, write } from "./dom.js";
import { glossary, NODES } from "./explain.js";
import { count, duration, legible, NONE } from "./text.js";

/**
 * @typedef {object} Node
 * @property {string} node Its name.
 * @property {boolean} silent It has a lease, and does not reply.
 * @property {boolean} gone Its lease has ended.
 * @property {string | null} version
 * @property {number | null} uptime
 * @property {number | null} clients
 * @property {number | null} unsynced
 * @property {boolean | null} ready
 * @property {boolean | null} draining
 */

/** @param {Node} node @returns {{word: string, kind: string}} Its state in a word. */
function state({ silent, gone, ready, draining }) {
  if (silent) return { word: "silent", kind: "bad" };
  if (gone) return { word: "gone", kind: "" };
  if (draining) return { word: "draining", kind: "warn" };
  return ready ? { word: "ready", kind: "good" } : { word: "not ready", kind: "bad" };
}

const LABELS = ["", "", "Clients", "Unsynced", "Version", "Up for"];

/** A row, which stays the same element as long as its node is shown. */
class Row {
  constructor() {
    this.node = element("bdi");
    this.state = element("span", "tag");
    this.clients = element("td", "number");
    this.unsynced = element("td", "number");
    this.version = element("bdi");
    this.uptime = element("td", "number");
    const name = element("th", "", this.node);
    name.scope = "row";
    const cells = [
      ...[name, element("td", "", this.state), this.clients, this.unsynced],
      ...[element("td", "", this.version), this.uptime],
    ];
    // Named, since a narrow screen shows the cells as a list.
    cells.forEach((cell, i) => {
      cell.setAttribute("role", i === 0 ? "rowheader" : "cell");
      cell.dataset.label = LABELS[i];
    });
    this.element = element("tr", "", ...cells);
    this.element.setAttribute("role", "row");
  }

  /** @param {Node} node */
  update(node) {
    const { word, kind } = state(node);
    write(this.node, legible(node.node));
    write(this.state, word);
    this.state.className = `tag ${kind}`;
    write(this.clients, count(node.clients));
    write(this.unsynced, count(node.unsynced));
    write(this.version, node.version === null ? NONE : legible(node.version));
    write(this.uptime, node.uptime === null ? NONE : duration(node.uptime));
  }
}

/** The table of nodes. */
export class NodeTable {
  /** @param {import("./source.js").Source} source */
  constructor(source) {
    this.source = source;
    this.asking = false;
    byId("nodes-help").append(glossary(NODES));
    /** @type {Map<string, Row>} */
    this.rows = new Map();
  }

  /**
   * Ask for all nodes. Nobody waits for it: a silent node takes two seconds.
   * @param {import("./figures.js").Status} status
   */
  async update({ cluster }) {
    byId("cluster").hidden = !cluster;
    if (!cluster || this.asking) return;
    this.asking = true;
    try {
      this._show((await this.source.get("cluster")).nodes);
    } catch (error) {
      const why = error instanceof Error ? legible(error.message) : "";
      write(byId("replies"), `No answer (${why}).`);
    } finally {
      this.asking = false;
    }
  }

  /** @param {Node[]} nodes */
  _show(nodes) {
    this.rows = new Map(nodes.map(({ node }) => [node, this.rows.get(node) ?? new Row()]));
    for (const node of nodes) this.rows.get(node.node)?.update(node);
    arrange(
      byId("nodes"),
      [...this.rows.values()].map((row) => row.element),
    );
    const clients = nodes.reduce((sum, node) => sum + (node.clients ?? 0), 0);
    const replies = nodes.filter((node) => node.clients !== null).length;
    write(
      byId("replies"),
      `${count(replies)} of ${count(nodes.length)} nodes reply; clients: ${count(clients)}`,
    );
  }
}
