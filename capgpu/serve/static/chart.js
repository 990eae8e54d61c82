// A line chart of a quantity over epochs, as SVG. Colours come from the style sheet.

import { h, s } from "./dom.js";

const HEIGHT = 380;
const MARGIN = { top: 16, right: 20, bottom: 44, left: 60 };

/** Round numbers in a range: about `count` of them. */
function linearTicks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) {
    for (const factor of [1, 2, 5]) {
      const value = factor * 10 ** power;
      if (value >= low && value <= high) ticks.push(value);
    }
  }
  return ticks.length >= 3 ? ticks : linearTicks(low, high, 5);
}

const label = (value) => Number(value.toPrecision(3)).toString();

/** A mean over neighbours, for the line of single minibatches. */
function smoothed(points) {
  const reach = Math.max(1, Math.round(points.length / 100));
  return points.map((point, i) => {
    const near = points.slice(Math.max(0, i - reach), i + reach + 1);
    return { epoch: point.epoch, value: near.reduce((sum, other) => sum + other.value, 0) / near.length };
  });
}

/**
 * A chart of a quantity `{ axis, unit, epochs, steps, lines, best }`: the text beside its axis, and that after its values;
 * `epochs` in total; `steps`, `{ legend, points }` of single minibatches, and `lines` of points after each epoch, as
 * `{ name, label, legend, points }`, where the name is a class of the style sheet; `best`, a point of the last line, or
 * null. Points are `{ epoch, value }`.
 */
export class Chart {
  constructor(container, readout) {
    this.container = container;
    this.readout = readout;
    this.curve = null;
    this.log = false;
    this.selected = null;
    new ResizeObserver(() => this.draw()).observe(container);
    container.addEventListener("pointermove", (event) => this.point(event));
    container.addEventListener("pointerleave", () => this.select(null));
    container.addEventListener("keydown", (event) => this.key(event));
  }

  show(curve, log) {
    this.curve = curve;
    this.log = log;
    this.draw();
  }

  draw() {
    const curve = this.curve;
    const width = this.container.clientWidth;
    if (!curve || width === 0) return;
    const points = [curve.steps, ...curve.lines].flatMap((line) => line.points);
    if (!points.length) {
      this.container.replaceChildren(h("p", { class: "hint nothing" }, "The curve begins with the first steps of training."));
      return;
    }
    const values = points.map((point) => point.value);
    let low = Math.min(...values);
    let high = Math.max(...values);
    const log = this.log && low > 0;
    if (log) [low, high] = [low / 1.1, high * 1.1];
    else {
      const beyond = (high - low) * 0.06;
      [low, high] = [low < 0 ? low - beyond : Math.max(0, low - beyond), high + beyond];
    }
    if (high === low) [low, high] = [low - 0.5, high + 0.5];
    const last = Math.max(curve.epochs, ...points.map((point) => point.epoch), 1);
    const scale = log ? Math.log : (value) => value;
    this.x = (epoch) => MARGIN.left + (epoch / last) * (width - MARGIN.left - MARGIN.right);
    this.y = (value) =>
      HEIGHT - MARGIN.bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    const path = (line) => line.map((point, i) => `${i ? "L" : "M"}${this.x(point.epoch).toFixed(1)} ${this.y(point.value).toFixed(1)}`).join("");
    const svg = s("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": this.summary() });
    for (const value of log ? logTicks(low, high) : linearTicks(low, high, 6)) {
      const y = this.y(value);
      svg.append(s("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }));
      svg.append(s("text", { class: "tick", x: MARGIN.left - 10, y: y + 4, "text-anchor": "end" }, label(value)));
    }
    const whole = linearTicks(0, last, Math.max(3, Math.min(10, width / 90))).filter((value) => Number.isInteger(value));
    for (const value of whole) {
      const x = this.x(value);
      svg.append(s("line", { class: "axis", x1: x, x2: x, y1: HEIGHT - MARGIN.bottom, y2: HEIGHT - MARGIN.bottom + 5 }));
      svg.append(s("text", { class: "tick", x, y: HEIGHT - MARGIN.bottom + 20, "text-anchor": "middle" }, label(value)));
    }
    svg.append(s("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: HEIGHT - MARGIN.bottom, y2: HEIGHT - MARGIN.bottom }));
    svg.append(s("text", { class: "tick", x: (MARGIN.left + width - MARGIN.right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "epoch"));
    svg.append(s("text", { class: "tick", x: 16, y: (HEIGHT - MARGIN.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 16 ${(HEIGHT - MARGIN.bottom) / 2})` }, curve.axis));
    svg.append(s("path", { class: "line steps", d: path(smoothed(curve.steps.points)) }));
    for (const { name, points: line } of curve.lines) {
      svg.append(s("path", { class: `line ${name}`, d: path(line) }));
      if (line.length === 1) svg.append(s("circle", { class: `dot ${name}`, cx: this.x(line[0].epoch), cy: this.y(line[0].value), r: 4 }));
    }
    if (curve.best) {
      const [x, y] = [this.x(curve.best.epoch), this.y(curve.best.value)];
      const left = x > width * 0.6;
      svg.append(s("circle", { class: "best", cx: x, cy: y, r: 6 }));
      svg.append(s("text", { class: "best-label", x: x + (left ? -10 : 10), y: y + 24, "text-anchor": left ? "end" : "start" }, `best ${curve.best.value.toFixed(3)}`));
    }
    this.cursor = s("g", { class: "cursor" });
    svg.append(this.cursor);
    const legend = h(
      "ul",
      { class: "legend", "aria-label": "Lines" },
      ...curve.lines.filter((line) => line.points.length).map((line) => h("li", { class: line.name }, line.legend)),
      curve.steps.points.length ? h("li", { class: "steps" }, curve.steps.legend) : null,
    );
    this.container.replaceChildren(legend, svg);
    if (this.selected !== null) this.mark();
  }

  summary() {
    const { best, lines } = this.curve;
    const last = this.epochs().at(-1);
    const ends = lines.flatMap((line) => line.points.filter((point) => point.epoch === last).map((point) => `${line.label} ${point.value.toFixed(3)}`));
    return [
      ends.length ? `After epoch ${last}: ${ends.join(", ")}.` : "",
      best ? `Best ${lines.at(-1).label} ${best.value.toFixed(3)} after epoch ${best.epoch}.` : "",
    ].join(" ");
  }

  epochs() {
    return [...new Set(this.curve.lines.flatMap((line) => line.points.map((point) => point.epoch)))].sort((a, b) => a - b);
  }

  point(event) {
    if (!this.curve || !this.x) return;
    const at = event.clientX - this.container.getBoundingClientRect().left;
    const distance = (epoch) => Math.abs(this.x(epoch) - at);
    const nearest = this.epochs().reduce((best, epoch) => (best === null || distance(epoch) < distance(best) ? epoch : best), null);
    this.select(nearest);
  }

  key(event) {
    const epochs = this.curve ? this.epochs() : [];
    if (!epochs.length) return;
    const now = epochs.indexOf(this.selected);
    const targets = { ArrowRight: now + 1, ArrowLeft: now < 0 ? epochs.length - 1 : now - 1, Home: 0, End: epochs.length - 1 };
    if (event.key === "Escape") this.select(null);
    if (!(event.key in targets)) return;
    event.preventDefault();
    this.select(epochs[Math.max(0, Math.min(epochs.length - 1, targets[event.key]))]);
  }

  select(epoch) {
    this.selected = epoch;
    if (this.cursor) this.mark();
  }

  mark() {
    const epoch = this.selected;
    if (epoch === null) {
      this.cursor.replaceChildren();
      this.readout.textContent = "Move over the chart, or use the arrow keys, to read an epoch.";
      return;
    }
    const marked = this.curve.lines
      .map((line) => ({ ...line, point: line.points.find((point) => point.epoch === epoch) }))
      .filter((line) => line.point);
    this.cursor.replaceChildren(
      s("line", { x1: this.x(epoch), x2: this.x(epoch), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }),
      ...marked.map(({ name, point }) => s("circle", { class: `dot ${name}`, cx: this.x(epoch), cy: this.y(point.value), r: 4.5 })),
    );
    const parts = marked.map(({ label, point }) => `, ${label} ${point.value.toFixed(4)}`);
    this.readout.textContent = `Epoch ${epoch}${parts.join("")}${this.curve.unit}`;
  }
}
