// Numbers as people read them.

export const NONE = "–";

/** Three digits, and k, M, G or T. */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k", 1e3]];
  for (const [from, unit, by] of steps) if (Math.abs(value) >= from) return `${digits(value / (by ?? from))} ${unit}`;
  return digits(value);
}

/** Three digits. */
export function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 || value === 0 ? 0 : size >= 10 ? 1 : 2);
}

/** Seconds as s, ms or µs. */
export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (value >= 1) return `${digits(value)} s`;
  return value >= 1e-3 ? `${digits(value * 1e3)} ms` : `${digits(value * 1e6)} µs`;
}

/** Bytes in binary units. */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (Math.abs(value) >= 1024 && at < units.length - 1) { value /= 1024; at += 1; }
  return `${at === 0 ? value : digits(value)} ${units[at]}`;
}

/** Bytes per second in decimal units, as memory is sold. */
export function bandwidth(value) {
  return value === null || value === undefined ? NONE : `${short(value)}B/s`.replace(/(\d)B/, "$1 B");
}

/** A share of 1 in per cent. */
export function percent(share) {
  return share === null || share === undefined || !Number.isFinite(share) ? NONE : `${Math.round(share * 100)} %`;
}

/** The value below which `share` of the sorted values lie; null of none. */
export function quantile(sorted, share) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : null;
}
