// Asks the server how it is, twice a second while the page is seen, and tells listeners. It never gives up.

import { Refused, call } from "./api.js";

const PERIOD_MS = 500;
const CALM_PERIOD_MS = 2000;
const PATIENCE_MS = 8000;
const AWAY_MS = [500, 1000, 2000, 3000];

export class Connection extends EventTarget {
  #timer = null;
  #asking = null;
  #failures = 0;
  #instance = null;
  #since = 0;
  #model = null;

  /** One of connecting, ready, loading, away, locked. */
  state = "connecting";

  start() {
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#pause() : this.now()));
    this.now();
  }

  /** Look at another model from now on; null for the server's first. */
  look(model) {
    this.#model = model;
    this.#since = 0;
    this.#instance = null;
    this.now();
  }

  /** Ask at once. */
  now() {
    this.#pause();
    this.#ask();
  }

  #pause() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
  }

  async #ask() {
    const asking = (this.#asking = new AbortController());
    const patience = setTimeout(() => asking.abort("late"), PATIENCE_MS);
    let wait = matchMedia("(prefers-reduced-motion: reduce)").matches ? CALM_PERIOD_MS : PERIOD_MS;
    try {
      const answer = await call(this.#address(), { signal: asking.signal });
      this.#take(await answer.json());
      this.#failures = 0;
    } catch (error) {
      if (asking.signal.aborted && asking.signal.reason !== "late") return;
      wait = this.#fail(error);
    } finally {
      clearTimeout(patience);
    }
    if (asking === this.#asking && !document.hidden) this.#timer = setTimeout(() => this.#ask(), wait);
  }

  #address() {
    const query = new URLSearchParams({ since: this.#since });
    if (this.#model !== null) query.set("model", this.#model);
    return `dashboard/state?${query}`;
  }

  #take(state) {
    if (state.instance !== this.#instance) {
      const first = this.#since === 0;
      this.#instance = state.instance;
      this.dispatchEvent(new Event("reset"));
      if (!first) {  // the server is another one, whose clock began anew
        this.#since = 0;
        this.now();
        return;
      }
    }
    this.#since = state.now_s;
    this.#tell(state.ready ? "ready" : "loading");
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  #fail(error) {
    if (error instanceof Refused && error.status === 404 && this.#model !== null) {
      this.#model = null;
      this.#since = 0;
      return 0;
    }
    const locked = error instanceof Refused && error.status === 401;
    this.#tell(locked ? "locked" : "away", error.message);
    this.#failures += 1;
    return AWAY_MS[Math.min(this.#failures, AWAY_MS.length) - 1];
  }

  #tell(state, message = "") {
    this.state = state;
    this.dispatchEvent(new CustomEvent("change", { detail: { state, message } }));
  }
}
