// Numbers as people read them.

export const NONE = "–";

// Between a number and its unit, where no line may break.
const GAP = "\u00a0";

/** Three digits, and k, M, G or T. */
export function short(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k", 1e3]];
  for (const [from, unit, by] of steps) if (Math.abs(value) >= from) return `${digits(value / (by ?? from))}${GAP}${unit}`;
  return digits(value);
}

/** As little as is needed, for an axis: no zeros behind the point. */
export const bare = (text) => text.replace(/\.0+(?=\D|$)/, "");

/** A count, exact. */
export const count = (value) => (value === undefined ? NONE : value.toLocaleString("en"));

/** Three digits. */
export function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 100 || value === 0 ? 0 : size >= 10 ? 1 : 2);
}

/** Seconds as s, ms, µs or ns. */
export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (value >= 1) return `${digits(value)}${GAP}s`;
  const [unit, by] = value >= 1e-3 ? ["ms", 1e3] : value >= 1e-6 ? ["µs", 1e6] : ["ns", 1e9];
  return `${digits(value * by)}${GAP}${unit}`;
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
export const bandwidth = (value) => rate(value, "B/s");

/** So many of a unit that may have a k, M, G or T before it. */
export function rate(value, unit) {
  if (value === null || value === undefined) return NONE;
  const [number, prefix = ""] = short(value).split(GAP);
  return `${number}${GAP}${prefix}${unit}`;
}

/** A share of 1 in per cent. */
export function percent(share) {
  return share === null || share === undefined || !Number.isFinite(share) ? NONE : `${Math.round(share * 100)}${GAP}%`;
}

/** The value below which `share` of the sorted values lie; null of none. */
export function quantile(sorted, share) {
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : null;
}
