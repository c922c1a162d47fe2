// Figures, plots and the comparison of what was expected with what was measured.

import { byId, legend, make } from "./dom.js";
import { NONE, bare, digits, percent, quantile, seconds, short } from "./format.js";
import { plot } from "./plot.js";

const SPAN_S = 60;
const FIGURES_S = 5;
const STEPS_S = 10;
const EMPTY = { num_prompt_tokens: 0, num_output_tokens: 0, num_gaps: 0, prefill: null, decode: null };
const PHASES = ["decode", "prefill"];

const total = (list, of) => list.reduce((sum, one) => sum + of(one), 0);

export function drawFigures(history, engine) {
  const lately = history.recent(FIGURES_S + history.bucketS);
  const sorted = (list) => list.filter((one) => one !== null).sort((a, b) => a - b);
  const first = sorted(history.requests.map((one) => one.ttft_s));
  const gaps = total(lately, (one) => one.num_gaps);
  const kv = engine?.kv;
  const looked = kv ? kv.num_hit_tokens + kv.num_miss_tokens : 0;
  const rate = (of) => (engine ? short(total(lately, of) / FIGURES_S) : NONE);
  const figures = [
    ["Running", engine ? String(engine.num_running) : NONE, engine ? `of ${engine.max_num_seqs}` : ""],
    ["Waiting", engine ? String(engine.num_waiting) : NONE, ""],
    ["Output", rate((one) => one.num_output_tokens), "tok/s"],
    ["Prompts", rate((one) => one.num_prompt_tokens), "tok/s"],
    ["First token", seconds(quantile(first, 0.5)), ""],
    ["Next token", gaps ? seconds(total(lately, (one) => one.gap_sum_s) / gaps) : NONE, ""],
    ["KV in use", kv ? percent((kv.num_used + kv.num_shared) / kv.num_blocks) : NONE, ""],
    ["Prefix found", looked ? percent(kv.num_hit_tokens / looked) : NONE, ""],
  ];
  byId("figures").replaceChildren(...figures.map(([name, value, unit]) => (
    make("div", {}, make("dt", {}, name), make("dd", {}, value, " ", make("small", {}, unit)))
  )));
}

export function drawThroughput(history) {
  const filled = history.filled(SPAN_S, EMPTY);
  const rates = (of) => smooth(filled.map((one) => [one.start_s + history.bucketS, of(one) / history.bucketS]));
  const prompt = rates((one) => one.num_prompt_tokens);
  const output = rates((one) => one.num_output_tokens);
  plot(byId("throughput"), {
    now: history.now, spanS: SPAN_S, format: (value) => bare(short(value)), least: 10,
    series: [{ points: prompt, colour: "prefill", fill: true }, { points: output, colour: "decode", fill: true }],
  });
  const [prompts, outputs] = [prompt, output].map((points) => short(points.at(-1)?.[1]));
  legend(byId("throughput-legend"), [["line", "prefill", "prompt", `${prompts} tok/s`], ["line", "decode", "output", `${outputs} tok/s`]]);
  byId("throughput").setAttribute("aria-label", `Tokens per second now: ${prompts} of prompts, ${outputs} of answers`);
}

/** The mean of each point and the one before: steps do not end where buckets do. */
function smooth(points) {
  return points.map(([time, value], at) => [time, at ? (value + points[at - 1][1]) / 2 : value]);
}

export function drawLatency(history) {
  const buckets = history.recent(SPAN_S).filter((one) => one.num_gaps);
  const first = history.requests.filter((one) => one.ttft_s !== null);
  const middle = broken(history, buckets, (one) => one.gap_sum_s / one.num_gaps);
  const longest = broken(history, buckets, (one) => one.gap_max_s);
  plot(byId("latency"), {
    now: history.now, spanS: SPAN_S, format: (value) => bare(seconds(value)), log: [1e-3, 10],
    series: [
      { points: longest, colour: "limit", thin: true },
      { points: middle, colour: "decode" },
      { points: first.map((one) => [one.ended_s, one.ttft_s]), colour: "prefill", dots: true },
    ],
  });
  const sorted = first.map((one) => one.ttft_s).sort((a, b) => a - b);
  const told = `${seconds(quantile(sorted, 0.5))}, 95 % ${seconds(quantile(sorted, 0.95))}`;
  const next = seconds(middle.at(-1)?.[1]);
  legend(byId("latency-legend"), [["", "prefill", "first", told], ["line", "decode", "next", next], ["line", "limit", "slowest next"]]);
  byId("latency").setAttribute("aria-label", `Time to the first token: half within ${told}. To the next token: ${next}`);
}

/** Points of buckets, with a gap wherever one is missing. */
function broken(history, buckets, of) {
  const points = [];
  for (const bucket of buckets) {
    const time = bucket.start_s + history.bucketS;
    if (points.length && time - points.at(-1)[0] > 1.5 * history.bucketS) points.push([time, null]);
    points.push([time, of(bucket)]);
  }
  return points;
}

export function drawSteps(history, state) {
  const expected = state.engine?.expected ?? null;
  byId("unmeasured").hidden = state.machine.measured_at !== null;
  byId("steps").replaceChildren(...PHASES.map((phase) => stepRow(phase, history.recent(STEPS_S))));
  drawStepTimes(history);
  byId("alone").textContent = expected === null ? "" : alone(expected);
}

function stepRow(phase, buckets) {
  const parts = buckets.map((one) => one[phase]);
  const steps = total(parts, (one) => one.num_steps);
  const priced = total(parts, (one) => one.priced_s);
  const measured = steps ? total(parts, (one) => one.measured_s) / steps : null;
  const known = priced > 0 && parts.some((one) => one.predicted_s !== null);
  // The steps that were priced are a sample: what is told of them is scaled to the mean step.
  const scaled = (of) => (priced > 0 ? (total(parts, of) / priced) * measured : null);
  const predicted = known ? scaled((one) => one.predicted_s ?? 0) : null;
  const off = predicted ? `${measured >= predicted ? "+" : "−"}${Math.round(Math.abs(measured / predicted - 1) * 100)}\u00a0%` : NONE;
  const cells = [predicted, measured, scaled((one) => one.limit_s)].map((value) => make("td", {}, seconds(value)));
  return make("tr", {}, make("th", { scope: "row" }, phase), ...cells, make("td", {}, off));
}

function drawStepTimes(history) {
  const buckets = history.recent(SPAN_S).filter((one) => one.decode.num_steps);
  const mean = (part) => part.measured_s / part.num_steps;
  const ms = (points) => points.map(([time, value]) => [time, value === null ? null : value * 1e3]);
  const measured = ms(broken(history, buckets, (one) => mean(one.decode)));
  const priced = buckets.filter((one) => one.decode.predicted_s !== null && one.decode.priced_s > 0);
  const predicted = ms(broken(history, priced, ({ decode }) => (decode.predicted_s / decode.priced_s) * mean(decode)));
  plot(byId("step-times"), {
    now: history.now, spanS: SPAN_S, format: (value) => `${bare(digits(value))}\u00a0ms`, least: 1,
    series: [{ points: measured, colour: "decode" }, { points: predicted, colour: "ink", dash: [4, 3] }],
  });
  legend(byId("steps-legend"), [["line", "decode", "decode, measured"], ["dashed", "ink", "expected"]]);
  const [told, hoped] = [measured, predicted].map((points) => (points.length ? `${digits(points.at(-1)[1])}\u00a0ms` : "unknown"));
  byId("step-times").setAttribute("aria-label", `Time of a decode step: measured ${told}, expected ${hoped}`);
}

function alone({ prefill, decode }) {
  const told = (one, unit) => `${short(one.predicted)}${unit} (limit ${short(one.limit)})`;
  return `One user alone: answers ${told(decode, " tok/s")}, prompts ${told(prefill, "")}.`;
}
