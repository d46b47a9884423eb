// Where the figures come from: the listener that has served this page, and nobody else.

const PATIENCE = 10_000;
const KEPT_AS = "proxyrelay-token";

/** The relay wants a token, or another one. */
export class Unauthorized extends Error {}

/** Nobody answers. */
export class Silence extends Error {}

/** @param {Response} response @returns {Promise<string>} What the listener says is wrong. */
async function complaint(response) {
  const said = await response.json().catch(() => ({}));
  return said.error ?? "without a reason";
}

/**
 * @template T
 * @param {Promise<T>} answer
 * @returns {Promise<T>} The same, but it fails with `Silence`.
 */
function heard(answer) {
  return answer.catch((error) => Promise.reject(new Silence(String(error))));
}

/** The listener, asked with the token of this tab. */
export class Source {
  /** Whether a token has been given. */
  get hasToken() {
    return sessionStorage.getItem(KEPT_AS) !== null;
  }

  /** @param {string} token Kept until the tab is closed. */
  useToken(token) {
    sessionStorage.setItem(KEPT_AS, token);
  }

  /** Forget a token that is no good. */
  dropToken() {
    sessionStorage.removeItem(KEPT_AS);
  }

  /**
   * @param {string} path Relative to the page.
   * @returns {Promise<any>} What the JSON says.
   * @throws {Unauthorized} The relay wants a token.
   * @throws {Silence} It does not answer, or not to the end.
   * @throws {Error} It answers with an error.
   */
  async get(path) {
    const token = sessionStorage.getItem(KEPT_AS);
    const response = await heard(
      fetch(path, {
        cache: "no-store",
        redirect: "error",
        headers: token === null ? {} : { Authorization: `Bearer ${token}` },
        signal: AbortSignal.timeout(PATIENCE),
      }),
    );
    if (response.status === 401) throw new Unauthorized();
    if (!response.ok) throw new Error(`HTTP ${response.status}, ${await complaint(response)}`);
    return heard(response.json());
  }
}
