// The KV cache as a map: a square for each block, or for as many as it takes to fit.

import { byId, legend } from "./dom.js";
import { colours, sheet } from "./plot.js";
import { count } from "./format.js";

const KINDS = ["empty", "cached", "used", "shared"];
const MAX_PITCH = 14;

export function drawBlocks(engine) {
  const canvas = byId("blocks");
  const { context, width, height } = sheet(canvas);
  const note = byId("blocks-note");
  const kv = engine?.kv;
  legend(byId("blocks-legend"), KINDS.map((kind) => ["", kind, kind === "empty" ? "free" : kind, count(kv?.[`num_${kind}`])]));
  if (!kv) {
    note.textContent = "";
    return;
  }
  const colour = colours();
  const pitch = fittingPitch(kv.cells.length, width, height);
  const perRow = Math.floor(width / pitch);
  const side = pitch > 4 ? pitch - 1 : pitch * 0.85;
  const paints = KINDS.map((kind) => colour[kind]);
  for (let at = 0; at < kv.cells.length; at += 1) {
    context.fillStyle = paints[Number(kv.cells[at])];
    context.fillRect((at % perRow) * pitch, Math.floor(at / perRow) * pitch, side, side);
  }
  const squares = kv.blocks_per_cell === 1 ? "One square is a block" : `One square is ${kv.blocks_per_cell} blocks, painted as the busiest of them`;
  note.textContent = `${squares}. A block holds ${kv.block_size} tokens.`;
  const held = KINDS.map((kind) => `${kv[`num_${kind}`]} ${kind === "empty" ? "free" : kind}`).join(", ");
  canvas.setAttribute("aria-label", `Map of ${kv.num_blocks} KV blocks: ${held}`);
}

function fittingPitch(count, width, height) {
  let pitch = Math.min(MAX_PITCH, Math.sqrt((width * height) / count));
  while (Math.ceil(count / Math.floor(width / pitch)) * pitch > height && pitch > 1) pitch -= 0.05;
  return pitch;
}
