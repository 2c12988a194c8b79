// A histogram of one filter, split by verdict, with a handle for each bound of its rule.

import { el, svg } from "../dom.js";
import { BOUNDS, number } from "./rules.js";

const HEIGHT = 100; // of the drawing, in its own units
const VERDICTS = ["accepted", "rejected", "unseen"];
const STEPS = 200; // of an arrow key, over the whole range
const FAR = 10; // steps of shift and arrow, or of page up and down
const SAYS = { at_least: "at least", at_most: "at most" };
const KEYS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: FAR, PageDown: -FAR };

export class Chart {
  // `onmove(bound, value)` is told at every change of a handle; value null takes the bound away.
  constructor(title, onmove) {
    this.title = title;
    this.onmove = onmove;
    this.bars = svg("svg", { class: "bars", preserveAspectRatio: "none", "aria-hidden": "true" });
    this.axis = el("div", { class: "axis", "aria-hidden": "true" });
    this.shades = Object.fromEntries(BOUNDS.map((bound) => [bound, el("div", { class: `shade ${bound}` })]));
    this.handles = Object.fromEntries(BOUNDS.map((bound) => [bound, this.handle(bound)]));
    this.well = el("div", { class: "well" }, this.bars, Object.values(this.shades), Object.values(this.handles));
    this.root = el("div", { class: "chart" }, this.well, this.axis);
  }

  handle(bound) {
    const handle = el("div", { class: `handle ${bound}`, role: "slider", tabindex: "0", "aria-label": `${this.title}, ${SAYS[bound]}` });
    handle.addEventListener("pointerdown", (event) => this.grab(event, handle, bound));
    handle.addEventListener("keydown", (event) => this.key(event, bound));
    return handle;
  }

  grab(event, handle, bound) {
    event.preventDefault();
    handle.focus({ preventScroll: true });
    handle.setPointerCapture(event.pointerId);
    const stop = new AbortController();
    const drag = (move) => {
      const frame = this.well.getBoundingClientRect();
      this.move(bound, this.low + ((move.clientX - frame.left) / frame.width) * (this.high - this.low));
    };
    handle.addEventListener("pointermove", drag, { signal: stop.signal });
    for (const end of ["pointerup", "pointercancel"]) handle.addEventListener(end, () => stop.abort(), { signal: stop.signal });
  }

  key(event, bound) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ends = { Home: this.low, End: this.high };
    const steps = (KEYS[event.key] ?? 0) * (event.shiftKey && event.key.startsWith("Arrow") ? FAR : 1);
    if (event.key in ends) this.move(bound, ends[event.key]);
    else if (event.key === "Delete" || event.key === "Backspace") this.onmove(bound, null);
    else if (steps) this.move(bound, this.rule[bound] + steps * this.step);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Bounds stay within what is drawn, on round numbers, and do not pass each other.
  move(bound, wanted) {
    const [floor, ceiling] = [bound === "at_most" ? this.rule.at_least ?? this.low : this.low, bound === "at_least" ? this.rule.at_most ?? this.high : this.high];
    const round = Number((Math.round(wanted / this.step) * this.step).toPrecision(6));
    const value = Math.min(ceiling, Math.max(floor, round));
    if (value !== this.rule[bound]) this.onmove(bound, value);
  }

  // `histogram`: { edges, accepted, rejected, unseen }; `rule` may be null.
  draw(histogram, rule) {
    const given = BOUNDS.map((bound) => rule?.[bound] ?? null).filter((value) => value !== null);
    const [first, last] = [histogram.edges[0], histogram.edges.at(-1)];
    const room = 0.015 * (last - first || 1);
    this.low = Math.min(first, ...given) - room;
    this.high = Math.max(last, ...given) + room;
    this.step = roundStep((this.high - this.low) / STEPS);
    this.bars.setAttribute("viewBox", `0 0 1000 ${HEIGHT}`);
    this.bars.replaceChildren(...this.columns(histogram));
    this.axis.replaceChildren(...ticks(this.low, this.high).map((value) => el("span", { style: `left:${this.at(value)}%` }, number(value))));
    this.place(rule);
  }

  // Heights go with the square root of the number, or the few that matter would vanish beside the many.
  columns(histogram) {
    const totals = histogram.unseen.map((unseen, i) => unseen + histogram.accepted[i] + histogram.rejected[i]);
    const scale = HEIGHT / Math.sqrt(Math.max(1, ...totals));
    return totals.flatMap((total, i) => (total ? [this.column(histogram, i, total, scale * Math.sqrt(total))] : []));
  }

  column(histogram, i, total, height) {
    const [left, right] = [this.at(histogram.edges[i]) * 10, this.at(histogram.edges[i + 1]) * 10];
    const [x, width] = [left + 1, Math.max(right - left - 2, 2)];
    let y = HEIGHT;
    const parts = VERDICTS.filter((verdict) => histogram[verdict][i]).map((verdict) => {
      const share = (height * histogram[verdict][i]) / total;
      y -= share;
      return svg("rect", { class: verdict, x, y, width, height: share });
    });
    const counts = VERDICTS.map((verdict) => `${histogram[verdict][i].toLocaleString()} ${verdict}`).join(", ");
    const title = svg("title", {}, `${number(histogram.edges[i])} to ${number(histogram.edges[i + 1])}: ${counts}`);
    return svg("g", {}, title, svg("rect", { class: "hit", x, y: 0, width, height: HEIGHT }), parts);
  }

  // Handles where the bounds of the rule are; a bound that is not there has none.
  place(rule) {
    this.rule = rule;
    for (const bound of BOUNDS) {
      const value = rule?.[bound] ?? null;
      const [handle, shade] = [this.handles[bound], this.shades[bound]];
      handle.hidden = shade.hidden = value === null;
      if (value === null) continue;
      const at = Math.min(100, Math.max(0, this.at(value)));
      handle.style.left = `${at}%`;
      shade.style.width = `${bound === "at_least" ? at : 100 - at}%`;
      const said = { valuemin: this.low, valuemax: this.high, valuenow: value, valuetext: `${SAYS[bound]} ${number(value)}` };
      for (const [name, text] of Object.entries(said)) handle.setAttribute(`aria-${name}`, text);
    }
  }

  at(value) {
    return ((value - this.low) / (this.high - this.low)) * 100;
  }
}

// The next larger 1, 2 or 5 times a power of ten.
export function roundStep(rough) {
  const unit = 10 ** Math.floor(Math.log10(rough));
  return Number(([1, 2, 5, 10].find((factor) => factor * unit >= rough * 0.999) * unit).toPrecision(3));
}

// Round numbers within the range, about five of them.
export function ticks(low, high) {
  const step = roundStep((high - low) / 5);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) found.push(Number((i * step).toPrecision(6)));
  return found;
}
