// The pictures of cards: before and after in five ways, boxes and masks over them, zoom and pan that stay from card to card.
//
// A frame holds layers on top of each other: the picture after, the picture before ("peek"), the marks of each. Every layer
// has a `.view` inside, which carries zoom and pan; what is clipped, blended or hidden is the layer around it.

import { el, svg } from "../dom.js";
import { Lens } from "./lens.js";
import { wholeFrames } from "./whole.js";

export const MODES = ["side by side", "slider", "flicker", "difference", "single"];
const FEW = 6; // other boxes up to this many carry their labels

export class Stage {
  // How pictures are shown, of all the sheets in it alike.
  constructor(sheets) {
    this.root = el("div", { class: "sheets", "data-mode": MODES[0] }, sheets);
    this.lens = new Lens(this.root);
    this.mode = 0;
    this.cut = 0.5;
    this.root.addEventListener("pointerdown", (event) => event.target.closest(".divider") && this.slide(event));
    this.root.addEventListener("keydown", (event) => event.target.closest(".divider") && this.nudge(event));
    this.cutAt(this.cut);
  }

  get masked() {
    return this.root.classList.contains("masked");
  }

  nextMode() {
    this.mode = (this.mode + 1) % MODES.length;
    this.root.dataset.mode = MODES[this.mode];
    return MODES[this.mode];
  }

  peek(on) {
    this.root.classList.toggle("peeking", on);
  }

  // False when boxes are off now.
  toggleBoxes() {
    return !this.root.classList.toggle("bare");
  }

  // False when they are off now.
  toggleMasks() {
    const on = this.root.classList.toggle("masked");
    for (const image of on ? this.root.querySelectorAll("img.mask[data-src]") : []) image.src = image.dataset.src;
    return on;
  }

  // To the box of the card or back; false when the whole image is seen.
  zoom(card) {
    const side = card.after ?? card.before;
    return this.lens.toggle(side?.xyxy ?? card.before?.xyxy, card.size);
  }

  // The divider of the slider, by arrow keys and by mouse or finger.
  nudge(event) {
    const step = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.cutAt(this.cut + step);
  }

  slide(event) {
    event.preventDefault();
    event.stopPropagation();
    const divider = event.target.closest(".divider");
    const place = divider.closest(".fitted").getBoundingClientRect();
    const follow = (move) => this.cutAt((move.clientX - place.left) / place.width);
    divider.setPointerCapture(event.pointerId);
    divider.addEventListener("pointermove", follow);
    divider.addEventListener("lostpointercapture", () => divider.removeEventListener("pointermove", follow), { once: true });
  }

  cutAt(share) {
    this.cut = Math.min(0.98, Math.max(0.02, share));
    this.root.style.setProperty("--cut", `${100 * this.cut}%`);
    for (const divider of this.root.querySelectorAll(".divider")) divider.setAttribute("aria-valuenow", Math.round(100 * this.cut));
  }
}

// The frames of a card: one for a text, two for pictures (of which the mode may hide the first).
export function frames(card, pictures, masked) {
  if (card.whole) return wholeFrames(card, pictures);
  if (!card.after) return [frame(card, "", [pictures.before], [marks(card, card.before, "now", masked)])];
  const was = marks(card, card.before, "was", masked);
  const now = marks(card, card.after, "now", masked);
  const peeked = marks(card, card.before, "was", masked, "peek");
  return [frame(card, "Before", [pictures.before], [was]), frame(card, "After", [pictures.after, pictures.peek], [now, peeked])];
}

// A picture in its proportions; `layers` lie on top of each other, the first one shown.
function frame(card, caption, layers, marked) {
  const [width, height] = card.size;
  const pictures = layers.filter(Boolean);
  const double = pictures.length > 1;
  const fitted = el("div", { class: "fitted" }, el("div", { class: "pictures" }, pictures.map((image, i) => picture(card, caption, image, i > 0))), marked);
  fitted.style.setProperty("--ratio", width / height);
  if (caption) fitted.append(el("figcaption", {}, caption));
  if (double) fitted.append(el("figcaption", { class: "peek" }, "Before"), el("figcaption", { class: "difference" }, "Difference × 5"), divider());
  return el("figure", { class: double ? "frame double" : "frame" }, el("div", { class: "room" }, fitted));
}

function picture(card, caption, image, peek) {
  const side = peek ? "before" : caption.toLowerCase();
  image.alt = `candidate ${card.id}${side ? `, ${side}` : ""}`;
  image.classList.toggle("peek", peek);
  const broken = image.dataset.broken && el("p", { class: "broken" }, `The image ${side} cannot be shown: its file is missing or damaged. Skip the candidate, or import the data set again.`);
  return el("div", { class: peek ? "layer peek" : "layer" }, el("div", { class: "view" }, broken || image));
}

function divider() {
  return el("div", { class: "divider", role: "slider", tabindex: "0", "aria-label": "How much of the image before is shown", "aria-valuemin": "0", "aria-valuemax": "100" });
}

// Boxes, masks and labels over a picture; `kind` is "was" or "now", `layer` names the picture they belong to.
function marks(card, own, kind, masked, layer = kind) {
  const [width, height] = card.size;
  const rect = ([x1, y1, x2, y2], name, label) =>
    svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: name }, label ? svg("title", {}, label) : null);
  const others = card.others.map((box) => rect(box.xyxy, "other", box.label));
  const mine = own?.xyxy ? [rect(own.xyxy, `edge ${kind}`), rect(own.xyxy, `own ${kind}`, own.label)] : [];
  const shapes = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, others, mine);
  const named = card.others.length <= FEW ? card.others : [];
  const chips = named.map((box) => chip(card, box.xyxy, box.label, "other"));
  const ownMask = own?.mask ? [mask(own.mask, "own", masked)] : [];
  const masks = [...card.others.filter((box) => box.mask).map((box) => mask(box.mask, "other", masked)), ...ownMask];
  const view = el("div", { class: "view" }, masks, shapes, chips, own?.xyxy ? chip(card, own.xyxy, own.label, "own") : null);
  return el("div", { class: `layer boxes ${layer}` }, view);
}

// Masks are fetched only once they are switched on.
function mask(address, name, on) {
  return el("img", { class: `mask ${name}`, alt: "", "data-src": address, ...(on ? { src: address } : {}) });
}

function chip(card, [x1, y1], label, name) {
  if (!label) return null;
  const node = el("span", { class: `chip ${name}${y1 / card.size[1] < 0.08 ? " within" : ""}` }, label);
  node.style.left = `${(100 * Math.max(x1, 0)) / card.size[0]}%`;
  node.style.top = `${(100 * Math.max(y1, 0)) / card.size[1]}%`;
  return node;
}
