// A small plotter: lines, areas and dots over the last seconds, on a canvas.

/** Prepare a canvas for drawing in CSS pixels and return its context and size. */
export function sheet(canvas) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  return { context, width, height };
}

/** The page's colours by name, as they are now. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  return new Proxy({}, { get: (_, name) => style.getPropertyValue(`--${name}`).trim() });
}

/** A round number at or above `value`: 1, 2 or 5 times a power of ten. */
export function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= value * 0.999);
}

const LEFT = 46;
const BOTTOM = 15;
const TOP = 6;

/**
 * Draw series over time.
 *
 * now, spanS: the right edge and the width, in seconds. format: of values at the axis. log: from one decade to another
 * instead of from 0. series: {points: [[time, value or null]], colour, dash, fill, dots}.
 */
export function plot(canvas, { now, spanS, series, format, log = null, least = 1 }) {
  const { context, width, height } = sheet(canvas);
  const colour = colours();
  const values = series.flatMap((one) => one.points.map(([, value]) => value)).filter((value) => value > 0);
  const top = niceCeiling(Math.max(least, ...values));
  const [low, high] = log ?? [0, top];
  const bottom = height - BOTTOM;
  const x = (time) => LEFT + ((time - now + spanS) / spanS) * (width - LEFT - 4);
  const share = (value) => (log ? Math.log(Math.max(value, low) / low) / Math.log(high / low) : value / high);
  const y = (value) => bottom - Math.min(1.02, share(value)) * (bottom - TOP);

  axes(context, { width, bottom, colour, format, x, y, now, spanS, ticks: log ? decades(low, high) : [0, top / 2, top] });
  context.save();
  context.beginPath();
  context.rect(LEFT, 0, width - LEFT, bottom + 1);
  context.clip();
  for (const one of series) {
    context.strokeStyle = context.fillStyle = colour[one.colour];
    if (one.dots) dots(context, one, x, y);
    else for (const run of runs(one.points)) line(context, one, run, x, y, bottom);
  }
  context.restore();
}

function axes(context, { width, bottom, colour, format, x, y, now, spanS, ticks }) {
  context.strokeStyle = colour.line;
  context.fillStyle = colour.muted;
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const tick of ticks) {
    const at = Math.round(y(tick)) + 0.5;
    context.beginPath();
    context.moveTo(LEFT, at);
    context.lineTo(width - 4, at);
    context.stroke();
    context.fillText(format(tick), LEFT - 6, at);
  }
  timeAxis(context, { x, now, spanS, at: bottom + 9 });
}

/** Write how long ago it was below a time axis. */
export function timeAxis(context, { x, now, spanS, at }) {
  context.textBaseline = "middle";
  for (const part of [0, 0.5, 1]) {
    const ago = spanS * (1 - part);
    context.textAlign = part === 0 ? "left" : part === 1 ? "right" : "center";
    context.fillText(ago === 0 ? "now" : `−${ago} s`, x(now - ago), at);
  }
}

function decades(low, high) {
  const ticks = [];
  for (let one = low; one <= high * 1.001; one *= 10) ticks.push(one);
  return ticks;
}

/** Stretches of points without a gap. */
function runs(points) {
  const all = [[]];
  for (const point of points) {
    if (point[1] === null) all.push([]);
    else all.at(-1).push(point);
  }
  return all.filter((run) => run.length);
}

function line(context, { dash = [], fill = false, thin = false }, run, x, y, bottom) {
  const path = new Path2D();
  run.forEach(([time, value], index) => (index ? path.lineTo(x(time), y(value)) : path.moveTo(x(time), y(value))));
  if (run.length === 1) path.lineTo(x(run[0][0]) + 1.5, y(run[0][1]));
  context.setLineDash(dash);
  context.lineWidth = thin ? 1 : 1.5;
  context.stroke(path);
  context.setLineDash([]);
  if (!fill) return;
  path.lineTo(x(run.at(-1)[0]), bottom);
  path.lineTo(x(run[0][0]), bottom);
  context.globalAlpha = 0.16;
  context.fill(path);
  context.globalAlpha = 1;
}

function dots(context, { points }, x, y) {
  for (const [time, value] of points) {
    context.beginPath();
    context.arc(x(time), y(value), 2, 0, 2 * Math.PI);
    context.fill();
  }
}
