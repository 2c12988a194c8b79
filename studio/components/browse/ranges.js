// Ranges of scores: for every filter a small histogram with two handles over it.

import { el } from "../dom.js";

const STEPS = 200;

export class Ranges {
  // `changed()` when a range was let go.
  constructor(changed) {
    this.changed = changed;
    this.known = [];
    this.root = el("div", { class: "ranges" });
  }

  // `scales` as the server gives them; `given` is a place's `scores`.
  show(scales, given) {
    const set = new Map(parse(given).map((one) => [one.filter, one]));
    this.known = scales.filter((scale) => scale.scored && scale.high > scale.low).map((scale) => this.range(scale, set.get(scale.filter)));
    const nothing = el("p", { class: "w-quiet" }, "No filter has measured anything here.");
    this.root.replaceChildren(...(this.known.length ? this.known.map((one) => one.root) : [nothing]));
  }

  range(scale, given) {
    const range = { scale, low: given?.low ?? null, high: given?.high ?? null };
    range.ends = Object.fromEntries(["low", "high"].map((end) => [end, this.handle(range, end)]));
    range.text = el("output", {});
    range.well = el("div", { class: "well" }, bars(scale.bins), el("i", { class: "shade low" }), el("i", { class: "shade high" }), range.ends.low, range.ends.high);
    range.root = el("div", { class: "range", role: "group", "aria-label": scale.title }, el("header", {}, el("span", {}, scale.title), range.text), range.well);
    this.paint(range);
    return range;
  }

  handle(range, end) {
    const { low, high, title } = range.scale;
    const at = (value) => Math.round(((value - low) / (high - low)) * STEPS);
    const input = el("input", { type: "range", min: 0, max: STEPS, "aria-label": `${title}, ${end === "low" ? "at least" : "at most"}` });
    input.value = range[end] === null ? (end === "low" ? 0 : STEPS) : at(range[end]);
    input.addEventListener("input", () => this.moved(range, end, Number(input.value)));
    input.addEventListener("change", () => this.changed());
    return input;
  }

  moved(range, end, step) {
    const { low, high } = range.scale;
    const open = end === "low" ? step <= 0 : step >= STEPS;
    range[end] = open ? null : Number((low + ((high - low) * step) / STEPS).toPrecision(4));
    this.paint(range);
  }

  paint(range) {
    const { low, high } = range.scale;
    const part = (value) => `${Math.min(Math.max((value - low) / (high - low), 0), 1) * 100}%`;
    range.well.querySelector(".shade.low").style.width = range.low === null ? "0" : part(range.low);
    range.well.querySelector(".shade.high").style.left = range.high === null ? "100%" : part(range.high);
    for (const [end, input] of Object.entries(range.ends)) input.setAttribute("aria-valuetext", range[end] === null ? "any" : short(range[end]));
    range.text.value = told(range);
    range.root.classList.toggle("set", range.low !== null || range.high !== null);
  }

  clear() {
    for (const range of this.known) {
      range.low = range.high = null;
      range.ends.low.value = 0;
      range.ends.high.value = STEPS;
      this.paint(range);
    }
  }

  // As it stands in an address: seam:0.5:2,overlap::0.3
  get value() {
    const set = this.known.filter((range) => range.low !== null || range.high !== null);
    return set.map(({ scale, low, high }) => `${scale.filter}:${low ?? ""}:${high ?? ""}`).join(",");
  }
}

// The ranges of an address in words.
export function ranged(text) {
  return parse(text).map((one) => `${one.filter} ${told(one)}`);
}

function parse(text) {
  const number = (part) => (part ? Number(part) : null);
  return (text ?? "").split(",").filter(Boolean).map((part) => {
    const [filter, low, high] = part.split(":");
    return { filter, low: number(low), high: number(high) };
  });
}

function told({ low, high }) {
  if (low !== null && high !== null) return `${short(low)} – ${short(high)}`;
  return low !== null ? `≥ ${short(low)}` : high !== null ? `≤ ${short(high)}` : "any";
}

function short(value) {
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

function bars(bins) {
  const most = Math.max(...bins, 1);
  return el("div", { class: "bars", "aria-hidden": "true" }, bins.map((n) => {
    const bar = el("b", {});
    bar.style.height = `${n ? Math.max(6, (100 * n) / most) : 0}%`;
    return bar;
  }));
}
