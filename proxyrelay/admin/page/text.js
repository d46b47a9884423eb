// How figures, times and texts from outside are spelt. Nothing here touches the page.

const LOCALE = "en-GB";
const COUNT = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const SHORT = new Intl.NumberFormat(LOCALE, { notation: "compact", maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat(LOCALE, { timeStyle: "medium" });
const MINUTE = new Intl.DateTimeFormat(LOCALE, { timeStyle: "short" });
const MOMENT = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "medium" });

const LONGEST = 200;

/** What does not show, or makes other text show elsewhere: controls, marks of direction. */
const UNSEEN = /[\p{C}\p{Zl}\p{Zp}]/gu;

/** The spelling of a figure that there is none of. */
export const NONE = "–";

/**
 * A text that somebody else chose, with all that would not show spelt out.
 * @param {unknown} text
 * @returns {string}
 */
export function legible(text) {
  const shown = String(text ?? "");
  const cut = shown.length > LONGEST ? `${shown.slice(0, LONGEST)}…` : shown;
  return cut.replace(UNSEEN, (sign) => `\\u{${sign.codePointAt(0)?.toString(16)}}`);
}

/** @param {number | null} value @returns {string} such as 12,345 */
export function count(value) {
  return value === null ? NONE : COUNT.format(value);
}

/** @param {number} value @returns {string} such as 12.3k */
export function short(value) {
  return SHORT.format(value);
}

/** @param {number | null} value @returns {string} such as 0.5/s */
export function rate(value) {
  if (value === null) return NONE;
  return `${value < 10 ? Math.round(value * 10) / 10 : COUNT.format(value)}/s`;
}

/** @param {number | null} value In a second. @returns {string} such as 12/s or 0.5/min */
export function pace(value) {
  if (value === null) return `${NONE}/min`;
  return value >= 1 ? rate(value) : `${Math.round(value * 600) / 10}/min`;
}

/** @param {number | null} seconds @returns {string} of three digits at most, such as 1.25 ms */
export function latency(seconds) {
  if (seconds === null) return NONE;
  if (seconds >= 1) return `${Number(seconds.toPrecision(3))} s`;
  return `${Number((seconds * 1000).toPrecision(seconds < 0.001 ? 2 : 3))} ms`;
}

/** @param {number} seconds @returns {string} in its two largest units, such as 3 d 4 h */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** @param {number} time Unix seconds. @returns {string} such as 22:45:03 */
export function clock(time) {
  return CLOCK.format(time * 1000);
}

/** @param {number} time Unix seconds. @returns {string} such as 22:45 */
export function minute(time) {
  return MINUTE.format(time * 1000);
}

/** @param {number} time Unix seconds. @returns {string} such as 24 Nov 2026, 22:45:03 */
export function moment(time) {
  return MOMENT.format(time * 1000);
}
