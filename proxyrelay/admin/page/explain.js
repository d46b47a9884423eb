// What the words of this page mean. Nothing here touches the page, but `glossary`.

import { element } from "./dom.js";

/** @type {Record<string, string>} What each figure counts, and what to do about it. */
export const FIGURES = {
  Clients:
    "Endpoints that are registered now. Connections include those that are not registered yet. " +
    "Registrations are counted from the start.",
  Users: "Users with a registered client. Without authentication everybody is one user.",
  Offers:
    "Offers passed on to their receivers. An offer is held while its receiver is briefly away, " +
    "or while another offer crosses it.",
  Answers: "Answers passed on. The time is from the offer to its answer, so it shows the peers.",
  "Not passed on":
    "Messages that went back to their sender with an error, or were dropped because they would " +
    "have ended their receiver.",
  Refused:
    "Clients that were closed with a code, and requests that got an HTTP error. Scanners of the " +
    "internet cause many of them.",
  Unanswered:
    "Clients that left the last offer to them unanswered. After a restart of the relay, endpoints " +
    "read nothing more: restart those that stay here.",
  "Unconnected pairs":
    "Pairs of clients that exchange offers and answers again and again. So they do not connect, " +
    "or not for long. They are listed below, with the likely cause.",
  "Event loop lag":
    "How late the relay gets to its work, for the slowest in a hundred. Over 250 ms, the machine " +
    "has too much to do.",
  "Kept connections":
    "Connections that outlive a restart of the relay, because its supervisor keeps them. Those " +
    "that are not kept are closed by a restart, and their endpoints become deaf.",
  Authentication:
    "How clients show who they are. The breaker is open while Globus Auth does not answer: " +
    "new clients then have to come back.",
  Certificate: "The certificate of this relay. Renew it in time: clients refuse an expired one.",
  Version: "The version of proxyrelay, and the number of its process.",
  Uptime: "The time since the start. All totals count from then.",
};

/** @type {Record<string, string>} Why a message went back, or was dropped. */
export const REASONS = {
  unknown: "No client with this UUID is registered here.",
  foreign: "The peer belongs to another user.",
  busy: "The peer does not read what the relay sends.",
  left: "The peer left before it answered.",
  crossed: "Both sides made an offer at once. One offer goes back, the other one goes on.",
  crossing: "Both sides made an offer at once. The later one was dropped.",
  silent: "The peer did not answer in time.",
  deaf: "The peer reads nothing since it came back. Restart it.",
  full: "Too many offers of one client or to one peer wait for an answer.",
  source: "The sender's UUID in the message is not the one it registered.",
  self: "The client made an offer to itself.",
  error: "The message carries an error, which only the relay may set.",
  duplicate: "The same offer is on its way already.",
  description: "The content is no valid session description.",
  late: "The sender no longer waits for the answer.",
  unasked: "The answer belongs to no open offer.",
};

/** Reasons behind which there is mostly a fault that lasts. */
export const FAULTS = new Set(["busy", "silent", "deaf", "full", "error", "description", "source"]);

/** @type {Record<string, string>} Codes of refusals. */
const CODES = {
  1002: "Broke the rules of WebSocket.",
  1007: "Sent a text that is not UTF-8.",
  1008: "Sent too much that is useless.",
  1009: "Sent a message over 1 MiB.",
  1013: "Was asked to come back later: the relay or Globus Auth could not serve it.",
  4000: "Sent something that is no message of an endpoint.",
  4001: "Did not show who it is. Its token is missing, expired or wrong.",
  4002: "May not do this. Its user or its UUID is not allowed.",
  4003: "Sent a message that is too long.",
  4004: "Another process uses its UUID, it was deaf, or an operator disconnected it.",
};

/** @param {string} word A reason or a code. @returns {string} What it means. */
export function meaning(word) {
  const known = REASONS[word] ?? CODES[word];
  return known ?? (Number(word) < 1000 ? "An HTTP error, before there was a client." : "");
}

/** @type {Record<string, string>} Marks of clients. */
export const MARKS = {
  deaf: "Came back, but answers no offer. Restart this endpoint.",
  fight: "Another process uses its UUID too. Stop one of them.",
  slowed: "Sends faster than the limits allow.",
  private: "Offers private addresses only: peers on other networks cannot reach it.",
  legacy: "Speaks as ProxyStore 0.4 and 0.5 do.",
};

/** @type {Record<string, string>} Columns of the table of clients. */
export const COLUMNS = {
  Connected: "Time since the registration.",
  "Last offer": "Time since its last offer that was passed on.",
  Sent: "Messages of this client that reached their peers.",
  Received: "Messages of others that reached this client.",
  Candidates: "Kinds of addresses that its last offer or answer carried, as below.",
  Unanswered: "Offers in a row to this client that it did not answer. 0 after each answer.",
};

/** @type {Record<string, string>} Kinds of candidates: addresses that offers and answers carry. */
export const CANDIDATES = {
  host: "An address of the machine itself.",
  srflx: "The address that a STUN server has seen. Without it, STUN may be blocked.",
  relay: "An address of a TURN server, which passes everything on.",
  mdns: "A name that only machines on the same network can find.",
};

/** @type {Record<string, string>} Likely causes why two clients do not connect, and cures. */
export const CAUSES = {
  private:
    "Both sides offer private addresses only. On one network: let UDP pass between the " +
    "machines. On two: allow UDP to a STUN server on both sides.",
  stun: "One side offers private addresses only. Allow UDP to a STUN server there.",
  nat: "A NAT or a firewall lets no UDP through. A TURN server helps.",
  family: "One side has IPv4 only, and the other one IPv6 only. A TURN server with both helps.",
  turn: "A TURN server is in use. Look whether both sides reach it, and whether it lets them in.",
  no_address: "One side offers no address at all. Look at its network.",
  unknown: "The candidates do not tell.",
};

/** @type {Record<string, string>} Plots. */
export const PLOTS = {
  Messages: "Offers and answers passed on in a second.",
  "Offer to answer": "Time that a peer takes to answer an offer. It tells about peers.",
  Handshake: "Time from a connection to its registration: TLS, WebSocket and authentication.",
  "Event loop lag": FIGURES["Event loop lag"],
  "99th percentile": "Of a hundred, 99 were faster.",
};

/** @type {Record<string, string>} Columns of the table of nodes, and states. */
export const NODES = {
  Unsynced: "Clients that the engine may not know: clients of other nodes may not reach them.",
  silent: "The node has a lease, but does not reply.",
  gone: "The lease of the node has ended.",
};

/** @type {Record<string, string>} Kinds of events. */
export const KINDS = {
  registered: "A client holds its UUID from now on.",
  left: "A client has gone.",
  replaced: "A new connection of the same user took over a UUID. The old one is closed.",
  fight: MARKS.fight,
  deaf: MARKS.deaf,
  private_only: "A client offers private addresses only: only peers on its network reach it.",
  unconnected: "Two clients exchange offers and answers again and again, but do not connect.",
  returned: "A message went back to its sender, for the reason at the end.",
  shielded: "A message was dropped that would have ended its receiver.",
  refused: "The relay closed a client, with a code.",
  rejected: "A request got an HTTP error.",
  failed: "A client broke the rules of WebSocket.",
  slowed: MARKS.slowed,
  operator: "An operator asked the relay to do something.",
  disconnected: "An operator closed a client.",
  reload: "The settings were read anew.",
  drain: "The relay takes no new clients, and ends after the last one.",
  certificate: "The relay serves a renewed certificate.",
};

/** What has to be looked at, by kind of event or mark; all others are ordinary. */
const LEVELS = new Map([
  ...["deaf", "fight"].map((word) => /** @type {const} */ ([word, "bad"])),
  ...["refused", "rejected", "failed", "slowed", "shielded", "unconnected"].map(
    (word) => /** @type {const} */ ([word, "warn"]),
  ),
]);

/** @param {string} word A kind of event, or a mark. @returns {string} "bad", "warn" or "". */
export function level(word) {
  return LEVELS.get(word) ?? "";
}

/**
 * @param {Record<string, string>} terms
 * @param {string} kind Class of each term.
 * @returns {any} A list of terms with their meanings.
 */
export function glossary(terms, kind = "") {
  const rows = Object.entries(terms).map(([term, means]) => {
    const word = element("span", kind && `${kind} ${level(term)}`, term.replace("_", " "));
    return element("div", "", element("dt", "", word), element("dd", "", means));
  });
  return element("dl", "glossary", ...rows);
}
