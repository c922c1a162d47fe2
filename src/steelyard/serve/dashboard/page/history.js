// What the server told in the last two minutes.

const KEPT_S = 120;

export class History {
  constructor() { this.clear(); }

  clear() {
    this.now = 0;
    this.bucketS = 0.5;
    this.buckets = [];
    this.requests = [];
    this.spans = new Map();
    this.waits = new Map();
    this.cpu = [];
  }

  /** Take in an answer. */
  add(state) {
    this.now = state.now_s;
    this.cpu.push([state.now_s, state.process.cpu_s]);
    const engine = state.engine;
    if (engine) {
      this.bucketS = engine.bucket_s;
      this.buckets.push(...engine.buckets);
      this.requests.push(...engine.requests);
      for (const span of engine.spans) this.#addSpan(span);
      for (const one of engine.sequences) this.#addWait(one);
    }
    this.#forget(this.now - KEPT_S);
  }

  /** Buckets of the last `spanS` seconds, with empty ones where nothing happened. */
  filled(spanS, empty) {
    const width = this.bucketS;
    const last = Math.floor(this.now / width) * width - width;
    const known = new Map(this.buckets.map((one) => [Math.round(one.start_s / width), one]));
    const filled = [];
    for (let start = last - spanS; start <= last; start += width) {
      filled.push(known.get(Math.round(start / width)) ?? { ...empty, start_s: start });
    }
    return filled;
  }

  /** Buckets with steps in them, of the last `spanS` seconds. */
  recent(spanS) {
    return this.buckets.filter((one) => one.start_s > this.now - spanS);
  }

  /** Cores' worth of CPU time that the server's process uses. */
  cores() {
    const last = this.cpu.at(-1);
    const first = this.cpu.find(([time]) => time > (last?.[0] ?? 0) - 2.5);
    return last && first && last[0] > first[0] ? (last[1] - first[1]) / (last[0] - first[0]) : null;
  }

  #addSpan(span) {
    this.spans.set(`${span.id} ${span.phase} ${span.start_s}`, span);
    const wait = this.waits.get(span.id);
    if (wait && !wait.ended) Object.assign(wait, { end_s: Math.max(wait.start_s, span.start_s), ended: true });
  }

  #addWait(one) {
    const wait = this.waits.get(one.id);
    if (!wait) {
      const first = [...this.spans.values()].find((span) => span.id === one.id);
      const end_s = first ? first.start_s : this.now;
      this.waits.set(one.id, { id: one.id, phase: "waiting", start_s: one.arrival_s, end_s, ended: one.running });
    } else if (!wait.ended) {
      wait.end_s = this.now;
      wait.ended = one.running;
    }
  }

  #forget(before) {
    this.buckets = this.buckets.filter((one) => one.start_s >= before);
    this.requests = this.requests.filter((one) => one.ended_s >= before);
    this.cpu = this.cpu.filter(([time]) => time >= before);
    for (const kept of [this.spans, this.waits]) {
      for (const [name, one] of kept) if (one.end_s < before) kept.delete(name);
    }
  }
}
