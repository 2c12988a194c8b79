// How a candidate looks: frames with boxes, texts with their changed words, the evidence beside them.

import { el, svg } from "../dom.js";

const FEW = 6; // other boxes up to this many carry their labels

export const WORDS = { accept: "accepted", reject: "rejected", skip: "skipped", edit: "edited" };

// A picture in its proportions with the boxes over it; `layers` are pictures on top of each other, the last one shown.
function frame(card, caption, layers, boxes) {
  const [width, height] = card.size;
  const pictures = layers.filter(Boolean);
  const broken = pictures.some((image) => image.dataset.broken);
  pictures.forEach((image, i) => {
    image.alt = `candidate ${card.id}${caption ? `, ${caption.toLowerCase()}` : ""}`;
    image.classList.toggle("peek", i > 0);
  });
  const inside = broken ? [el("p", { class: "broken" }, "This image cannot be shown.")] : [...pictures, ...boxes];
  const fitted = el("div", { class: "fitted" }, inside);
  fitted.style.setProperty("--ratio", width / height);
  if (caption) fitted.append(el("figcaption", {}, caption));
  if (pictures.length > 1) fitted.append(el("figcaption", { class: "peek" }, "Before"));
  return el("figure", { class: `frame${pictures.length > 1 ? " double" : ""}` }, el("div", { class: "room" }, fitted));
}

// Boxes and labels over a picture; `kind` is "was" or "now", `layer` names the picture they belong to.
function boxLayer(card, own, kind, layer = kind) {
  const [width, height] = card.size;
  const rect = ([x1, y1, x2, y2], name, label) =>
    svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: name }, label ? svg("title", {}, label) : null);
  const others = card.others.map((box) => rect(box.xyxy, "other", box.label));
  const mine = own?.xyxy ? [rect(own.xyxy, `edge ${kind}`), rect(own.xyxy, `own ${kind}`, own.label)] : [];
  const shapes = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, others, mine);
  const named = card.others.length <= FEW ? card.others : [];
  const chips = named.map((box) => chip(card, box.xyxy, box.label, "other"));
  return [el("div", { class: `boxes ${layer}` }, shapes, chips, own?.xyxy ? chip(card, own.xyxy, own.label, "own") : null)];
}

function chip(card, [x1, y1], label, name) {
  if (!label) return null;
  const node = el("span", { class: `chip ${name}${y1 / card.size[1] < 0.08 ? " within" : ""}` }, label);
  node.style.left = `${(100 * Math.max(x1, 0)) / card.size[0]}%`;
  node.style.top = `${(100 * Math.max(y1, 0)) / card.size[1]}%`;
  return node;
}

// The frames of a card: one for a text, two for pictures (of which the mode may hide the first).
export function frames(card, pictures) {
  if (!card.after) return [frame(card, "", [pictures.before], boxLayer(card, card.before, "now"))];
  const was = boxLayer(card, card.before, "was");
  const now = boxLayer(card, card.after, "now");
  const peeked = boxLayer(card, card.before, "was", "peek");
  return [frame(card, "Before", [pictures.before], was), frame(card, "After", [pictures.after, pictures.peek], [...now, ...peeked])];
}

export function texts(card) {
  if (!card.texts) return [];
  const line = (name, segments, tag) =>
    el("p", {}, el("span", { class: "when" }, name), el("q", {}, segments.map(([text, changed]) => (changed ? el(tag, {}, text) : text))));
  const type = card.texts.edit_type ? el("span", { class: "type", title: "what kind of word was changed" }, card.texts.edit_type) : null;
  return [line("Before", card.texts.before, "del"), line("After", card.texts.after, "ins"), type ?? ""];
}

const MARKS = { pass: "✓", fail: "✕", missing: "?", free: "·" };
const STATES = { pass: "passes", fail: "fails", missing: "has no value", free: "no rule" };

function scoreRow(score) {
  const why = score.state === "fail" || score.state === "missing" ? el("small", {}, score.reason) : null;
  return el(
    "li",
    { class: score.state, title: `${score.help}\n${score.reason}`.trim() },
    el("i", { role: "img", "aria-label": STATES[score.state] }, MARKS[score.state]),
    el("span", { class: "name" }, score.title),
    el("b", {}, score.value ?? "–"),
    el("span", { class: "rule" }, score.rule),
    why,
  );
}

export function evidence(card) {
  const scores = el("ul", { class: "scores", "aria-label": "Filter scores" }, card.scores.map(scoreRow));
  const says = { accept: "Policy accepts", reject: "Policy rejects", pending: "Policy is undecided" }[card.policy.says];
  const policy = el("p", { class: `policy ${card.policy.says}`, title: card.policy.name }, el("b", {}, says), el("span", {}, card.policy.by));
  const facts = card.provenance.flatMap(([what, value]) => [el("dt", {}, what), el("dd", { title: value }, value)]);
  return [policy, card.scores.length ? scores : el("p", { class: "quiet" }, "No filter has scored this candidate."), el("dl", {}, facts)];
}
