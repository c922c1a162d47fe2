// The machine as `steelyard probe` found it, with what the engine uses of it now.

import { byId, make } from "./dom.js";
import { bandwidth, bytes, digits, percent, rate, seconds } from "./format.js";

const RECENT_S = 3;

export function drawMachine(history, state) {
  const { description, measured_at, quick, busy, device: name, dtype } = state.machine;
  const device = description.devices.find((one) => one.name === name) ?? description.devices[0];
  byId("machine-note").textContent = noteOf(description, measured_at, quick, busy);
  byId("machine").replaceChildren(
    coresBox(history, state, device),
    arithmeticBox(history, device, dtype),
    ...(device.caches ?? []).map(cacheBox),
    ...device.memory.map((tier, at) => memoryBox(history, state, tier, at === 0)),
    ...(description.disks ?? []).map(diskBox),
  );
}

function noteOf({ cpu_model: model, num_usable_cores: usable, num_logical_cores: all }, measuredAt, quick, busy) {
  const cores = usable === all ? `${all} cores` : `${usable} of ${all} cores`;
  if (measuredAt === null) return `${model}, ${cores}. No description of this machine yet: run steelyard probe.`;
  return `${model}, ${cores}. Measured ${measuredAt.replace("T", " ").replace("Z", " UTC")}${quick ? ", quickly" : ""}${busy ? ", while it was busy" : ""}.`;
}

function coresBox(history, state, device) {
  const cores = history.cores();
  const share = cores === null ? null : cores / state.process.num_cores;
  const facts = [`${state.process.num_cores} usable${device.kind === "cpu" ? "" : ", of the host"}`];
  return box("middle", "Cores", facts, share, cores === null ? "" : `${digits(cores)} busy here, ${percent(share)}`);
}

function cacheBox(cache) {
  return box("small", `L${cache.level} cache`, [bytes(cache.capacity_bytes), ...measured(cache)]);
}

function measured({ latency_s: latency, bandwidth_bytes_per_s: rate }) {
  return [latency && seconds(latency), rate && bandwidth(rate)].filter(Boolean);
}

function memoryBox(history, state, tier, first) {
  const facts = [[bytes(tier.capacity_bytes), ...measured(tier)].join(", ")];
  const title = tier.name[0].toUpperCase() + tier.name.slice(1);
  if (!first) return box("middle", title, facts);
  const { rss_bytes: held, memory_bytes: all } = state.process;
  const item = box("large", title, facts, held / all, `${bytes(held)} held by this server`);
  const used = rateOf(history, (one) => one.num_bytes);
  if (tier.bandwidth_bytes_per_s && used !== null) {
    addBar(item, used / tier.bandwidth_bytes_per_s, `${bandwidth(used)} used, ${percent(used / tier.bandwidth_bytes_per_s)}`);
  }
  return item;
}

function arithmeticBox(history, device, dtype) {
  const peaks = device.peaks ?? [];
  const facts = peaks.map((one) => `${one.dtype} ${rate(one.flop_per_s, "op/s")}`);
  const peak = peaks.find((one) => one.dtype === dtype);
  const used = rateOf(history, (one) => one.flop);
  if (!peak || used === null) return box("middle", "Arithmetic", facts.length ? facts : ["not measured"]);
  const share = used / peak.flop_per_s;
  return box("middle", "Arithmetic", facts, share, `${rate(used, "op/s")} in ${dtype}, ${percent(share)}`);
}

function diskBox({ capacity_bytes: size, read_bytes_per_s: read, write_bytes_per_s: write }) {
  return box("middle", "Disk", [bytes(size), read && `read ${bandwidth(read)}`, write && `write ${bandwidth(write)}`]);
}

/** What the engine's steps used per second lately; null where steps are not priced. */
function rateOf(history, of) {
  const buckets = history.recent(RECENT_S + history.bucketS);
  let used = 0;
  for (const bucket of buckets) {
    const [priced, measured] = ["priced_s", "measured_s"].map((name) => bucket.prefill[name] + bucket.decode[name]);
    if (measured > 0 && priced === 0) return null;
    if (priced > 0) used += (of(bucket) / priced) * measured;
  }
  return used / RECENT_S;
}

function box(size, title, facts, share, text) {
  const item = make("li", { class: size }, make("h3", {}, title), ...facts.filter(Boolean).map((one) => make("p", {}, one)));
  if (share !== undefined && share !== null) addBar(item, share, text);
  return item;
}

function addBar(item, share, text) {
  const fill = make("span");
  fill.style.width = `${Math.min(100, share * 100)}%`;
  item.append(make("p", { class: "used" }, text), make("div", { class: "bar" }, fill));
}
