// Two filters against each other, and a lasso to take out what lies inside.

import { el } from "../dom.js";
import { ticks } from "./chart.js";
import { BOUNDS, number } from "./rules.js";

const EDGE = { left: 44, right: 10, top: 8, bottom: 24 };
const COLOURS = ["--w-c7", "--w-good", "--w-bad", "--w-busy"]; // by verdict: unseen, accepted, rejected, skipped
const NEAR = 3; // pixels between two points of the lasso

export class Scatter {
  // `onlasso(polygon)` gets the corners in values of the two filters.
  constructor(onlasso) {
    this.onlasso = onlasso;
    this.canvas = el("canvas", { role: "img" });
    this.root = el("div", { class: "scatter" }, this.canvas);
    this.lasso = []; // corners, in values of the two filters
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    new ResizeObserver(() => this.paint()).observe(this.root);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  // `points`: { x, y, human } of equal length; `rules`: the rule in force of either filter, or null.
  draw(points, titles, rules) {
    Object.assign(this, { points, titles, rules, lasso: [] });
    this.ranges = [points.x, points.y].map(range);
    this.canvas.setAttribute("aria-label", `${titles[0]} across, ${titles[1]} upwards, ${points.x.length.toLocaleString()} candidates`);
    this.paint();
  }

  place(rules) {
    this.rules = rules;
    this.paint();
  }

  // Pixels of a value: axis 0 is across, 1 upwards; and back.
  at(axis, value) {
    const [low, high] = this.ranges[axis];
    const share = (value - low) / (high - low);
    return axis === 0 ? EDGE.left + share * this.inner[0] : EDGE.top + (1 - share) * this.inner[1];
  }

  value(axis, pixel) {
    const [low, high] = this.ranges[axis];
    const share = axis === 0 ? (pixel - EDGE.left) / this.inner[0] : 1 - (pixel - EDGE.top) / this.inner[1];
    return low + share * (high - low);
  }

  paint() {
    const { width, height } = this.root.getBoundingClientRect();
    if (!this.points || !width) return;
    const dense = devicePixelRatio || 1;
    Object.assign(this.canvas, { width: Math.round(width * dense), height: Math.round(height * dense) });
    this.inner = [width - EDGE.left - EDGE.right, height - EDGE.top - EDGE.bottom];
    this.style = getComputedStyle(this.root);
    const brush = this.canvas.getContext("2d");
    brush.scale(dense, dense);
    this.paintAxes(brush, width, height);
    this.paintPoints(brush);
    this.paintBounds(brush, height, width);
    this.paintLasso(brush);
  }

  colour(name) {
    return this.style.getPropertyValue(name).trim();
  }

  paintAxes(brush, width, height) {
    brush.font = "11.5px system-ui, sans-serif";
    brush.strokeStyle = this.colour("--w-line");
    brush.fillStyle = this.colour("--w-quiet");
    brush.lineWidth = 1;
    for (const value of ticks(...this.ranges[1])) {
      const y = this.at(1, value);
      line(brush, EDGE.left, y, width - EDGE.right, y);
      brush.textAlign = "right";
      brush.fillText(number(value), EDGE.left - 6, y + 4);
    }
    brush.textAlign = "center";
    for (const value of ticks(...this.ranges[0])) brush.fillText(number(value), this.at(0, value), height - 7);
  }

  // Those nobody has seen first, so that the verdicts lie on top.
  paintPoints(brush) {
    const { x, y, human } = this.points;
    const size = x.length > 4000 ? 1.6 : x.length > 600 ? 2.2 : 3.2;
    for (const [verdict, name] of COLOURS.entries()) {
      brush.fillStyle = this.colour(name);
      brush.globalAlpha = verdict === 0 ? 0.4 : 0.8;
      for (let i = 0; i < x.length; i += 1) {
        if (human[i] === verdict) brush.fillRect(this.at(0, x[i]) - size / 2, this.at(1, y[i]) - size / 2, size, size);
      }
    }
    brush.globalAlpha = 1;
  }

  paintBounds(brush, height, width) {
    brush.strokeStyle = this.colour("--w-accent");
    brush.lineWidth = 1.5;
    for (const [axis, rule] of this.rules.entries()) {
      for (const bound of BOUNDS) {
        const value = rule?.[bound] ?? null;
        if (value === null || value < this.ranges[axis][0] || value > this.ranges[axis][1]) continue;
        const at = this.at(axis, value);
        if (axis === 0) line(brush, at, EDGE.top, at, height - EDGE.bottom);
        else line(brush, EDGE.left, at, width - EDGE.right, at);
      }
    }
  }

  paintLasso(brush) {
    if (this.lasso.length < 2) return;
    brush.beginPath();
    for (const [x, y] of this.lasso) brush.lineTo(this.at(0, x), this.at(1, y));
    brush.closePath();
    brush.fillStyle = this.colour("--w-accent");
    brush.globalAlpha = 0.14;
    brush.fill();
    brush.globalAlpha = 1;
    brush.strokeStyle = this.colour("--w-accent");
    brush.lineWidth = 1.5;
    brush.stroke();
  }

  begin(event) {
    if (!this.points) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    let last = this.spot(event);
    this.lasso = [this.valuesAt(last)];
    const stop = new AbortController();
    const draw = (move) => {
      const spot = this.spot(move);
      if (Math.hypot(spot[0] - last[0], spot[1] - last[1]) < NEAR) return;
      last = spot;
      this.lasso.push(this.valuesAt(spot));
      this.paint();
    };
    this.canvas.addEventListener("pointermove", draw, { signal: stop.signal });
    const end = () => {
      stop.abort();
      this.close();
    };
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, end, { signal: stop.signal });
  }

  spot(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  valuesAt([x, y]) {
    return [this.value(0, x), this.value(1, y)];
  }

  close() {
    if (this.lasso.length > 2) return this.onlasso(this.lasso);
    this.lasso = [];
    this.paint();
  }

  // A box given by its numbers, for whoever draws no lasso.
  frame([left, right], [low, high]) {
    this.lasso = [[left, low], [right, low], [right, high], [left, high]];
    this.paint();
    this.onlasso(this.lasso);
  }
}

function range(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(low <= high)) return [0, 1];
  const room = 0.03 * (high - low || 1);
  return [low - room, high + room];
}

function line(brush, x1, y1, x2, y2) {
  brush.beginPath();
  brush.moveTo(x1, y1);
  brush.lineTo(x2, y2);
  brush.stroke();
}
