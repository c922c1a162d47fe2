// Requests as bars over the last half minute: waiting, prefill, decode. Each has a lane for as long as it is seen.

import { byId, legend } from "./dom.js";
import { colours, sheet, timeAxis } from "./plot.js";

const SPAN_S = 30;
const BOTTOM = 15;
const MAX_LANE = 16;
const KINDS = ["waiting", "prefill", "decode"];

export function drawTimeline(history, engine) {
  const canvas = byId("timeline");
  const { context, width, height } = sheet(canvas);
  const colour = colours();
  const now = history.now;
  const seen = bars(history, now - SPAN_S);
  const lanes = assignLanes(seen);
  const numLanes = Math.max(8, ...lanes.values()) + 1;
  const pitch = Math.min(MAX_LANE, (height - BOTTOM) / numLanes);
  const x = (time) => Math.max(0, ((time - now + SPAN_S) / SPAN_S) * width);

  context.fillStyle = colour.soft;
  for (let lane = 0; lane < Math.floor((height - BOTTOM) / pitch); lane += 2) {
    context.fillRect(0, lane * pitch, width, pitch);
  }
  for (const bar of seen) {
    const thick = Math.max(1, pitch * (bar.phase === "waiting" ? 0.3 : 0.72));
    context.fillStyle = colour[bar.phase];
    const from = x(bar.start_s);
    context.fillRect(from, (lanes.get(bar.id) + 0.5) * pitch - thick / 2, Math.max(1, x(bar.end_s) - from), thick);
  }
  context.fillStyle = colour.muted;
  timeAxis(context, { x, now, spanS: SPAN_S, at: height - 6 });

  legend(byId("timeline-legend"), KINDS.map((kind) => ["", kind, kind]));
  const [running, waiting] = engine ? [engine.num_running, engine.num_waiting] : [0, 0];
  canvas.setAttribute("aria-label", `Timeline of the last ${SPAN_S} seconds: ${running} running, ${waiting} waiting`);
}

function bars(history, since) {
  return [...history.waits.values(), ...history.spans.values()].filter((bar) => bar.end_s > since);
}

/** Give each request the first lane that is free for all of its time. */
function assignLanes(seen) {
  const lives = new Map();
  for (const { id, start_s, end_s } of seen) {
    const life = lives.get(id) ?? { id, start_s, end_s };
    lives.set(id, { id, start_s: Math.min(life.start_s, start_s), end_s: Math.max(life.end_s, end_s) });
  }
  const ends = [];
  const lanes = new Map();
  for (const life of [...lives.values()].sort((a, b) => a.start_s - b.start_s || a.id - b.id)) {
    let lane = ends.findIndex((end) => end <= life.start_s);
    if (lane < 0) lane = ends.length;
    ends[lane] = life.end_s;
    lanes.set(life.id, lane);
  }
  return lanes;
}
