// The face of whole images: the picture with its boxes, its caption with phrases as coloured spans, a class with its soft labels.
// Pointing at a phrase lights up its boxes, pointing at a box its phrases. And what the editor makes of all that, and back.

import { el, svg } from "../dom.js";
import { cut } from "../editor/spans.js";
import { visible } from "./visible.js";

const HUES = 8;
const MOST = 10; // soft labels shown
const CAPTION = 1; // id of the caption among the editor's phrases; its phrases follow
const hue = (number) => `h${number % HUES}`;

// The frames of a card: the image itself, beside it the one that it was captioned from.
export function wholeFrames(card, pictures) {
  const made = Boolean(card.after);
  const frames = made && pictures.before ? [frame(card.whole.source, "Described image", pictures.before, alt(card, "the described image"))] : [];
  return [...frames, frame(card.size, frames.length ? "New image" : "", made ? pictures.after : pictures.before, alt(card, ""), boxes(card))];
}

function alt(card, side) {
  return `candidate ${card.id}${side ? `, ${side}` : ""}`;
}

function frame([width, height], caption, image, name, over = "") {
  if (image) image.alt = name;
  const shown = !image || image.dataset.broken ? el("p", { class: "broken" }, "The image cannot be shown: its file is missing or damaged.") : image;
  const fitted = el("div", { class: "fitted" }, el("div", { class: "pictures" }, el("div", { class: "layer" }, el("div", { class: "view" }, shown))), over);
  fitted.style.setProperty("--ratio", width / height);
  if (caption) fitted.append(el("figcaption", {}, caption));
  return el("figure", { class: "frame" }, el("div", { class: "room" }, fitted));
}

// Each box in the colour of the first phrase that names it; one that none names is dashed.
function boxes({ size, whole }) {
  const { content, labels } = whole;
  const naming = content.boxes.map((_, i) => content.phrases.map((one, n) => (one.boxes.includes(i) ? n : -1)).filter((n) => n >= 0));
  const shapes = content.boxes.map(({ xyxy: [x1, y1, x2, y2], score, origin }, i) => {
    const names = naming[i].map((n) => content.phrases[n].text).join(", ") || labels[content.boxes[i].category_id] || "no phrase names this box";
    const told = `${names} (${origin.replaceAll("_", " ")}${score === null ? "" : `, score ${score.toFixed(2)}`})`;
    const look = naming[i].length ? hue(naming[i][0]) : "unnamed";
    return svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: `named ${look}`, "data-phrases": naming[i].join(" "), ...lighting(naming[i]) }, svg("title", {}, told));
  });
  const drawing = svg("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, preserveAspectRatio: "none", role: "img", "aria-label": `${content.boxes.length} boxes` }, shapes);
  return el("div", { class: "layer boxes now whole" }, el("div", { class: "view" }, drawing));
}

// The words of a card: the caption with its phrases, or the class.
export function said({ whole }) {
  const { content, class: name, soft } = whole;
  const caption = content.caption ? [el("p", {}, el("q", { class: "phrased", dir: "auto" }, cut(content.caption, content.phrases.map((one, id) => ({ ...one, id }))).map((part) => piece(part, content.phrases))))] : [];
  const unplaced = content.phrases.map((one, n) => [one, n]).filter(([one]) => !one.spans.length);
  const others = unplaced.length ? [el("p", { class: "phrased" }, unplaced.map(([one, n]) => mark(one.text, n, one)))] : [];
  const shown = name ? [el("p", { class: "class" }, el("span", { class: "when" }, "Class"), el("b", {}, name.replaceAll("_", " ")))] : [];
  return [...shown, ...caption, ...others, ...(soft?.length ? [bars(soft, name)] : [])];
}

function piece({ text, ids }, phrases) {
  return ids.length ? mark(text, ids[0], phrases[ids[0]]) : el("span", {}, visible(text));
}

function mark(text, number, { boxes }) {
  const title = boxes.length ? `${boxes.length} ${boxes.length === 1 ? "box" : "boxes"}` : "no box";
  return el("mark", { class: `${hue(number)}${boxes.length ? "" : " unboxed"}`, tabindex: "0", title, "data-phrase": number, ...lighting([number]) }, visible(text));
}

// Soft labels, [[name, share]], as bars; that of the image's own class stands out.
function bars(soft, own) {
  const row = ([name, share]) => el("li", { class: name === own ? "own" : null }, el("span", {}, name.replaceAll("_", " ")), el("meter", { min: "0", max: "1", value: share, "aria-label": name }), el("b", {}, `${Math.round(100 * share)} %`));
  return el("ul", { class: "soft", "aria-label": "Soft labels" }, soft.slice(0, MOST).map(row));
}

// Lights phrases and their boxes up while one of them is pointed at or has the focus.
function lighting(numbers) {
  const light = (on) => (event) => {
    const sheet = event.currentTarget.closest(".sheet");
    for (const number of numbers) for (const node of sheet.querySelectorAll(`[data-phrase="${number}"], [data-phrases~="${number}"]`)) node.classList.toggle("lit", on);
    sheet.classList.toggle("lighting", on && numbers.length > 0);
  };
  return { onpointerenter: light(true), onpointerleave: light(false), onfocus: light(true), onblur: light(false) };
}

// What the editor takes instead of an image's annotations.
export function sceneOf(card) {
  const { content } = card.whole;
  const phrase = (values) => ({ parent_id: null, spans: [], box_ids: [], holds: true, ...values });
  const named = content.phrases.map(({ text, spans, boxes }, i) => phrase({ id: CAPTION + 1 + i, text, spans, parent_id: content.caption ? CAPTION : null, box_ids: boxes.map((box) => box + 1) }));
  return {
    image: { id: card.image, size: card.size },
    url: (card.after ?? card.before)?.url ?? null,
    number: card.edition,
    boxes: content.boxes.map(({ xyxy, category_id }, i) => ({ id: i + 1, xyxy, category_id, masked: false })),
    phrases: [...(content.caption ? [phrase({ id: CAPTION, text: content.caption })] : []), ...named],
    classes: {},
    known: {},
    versions: [],
  };
}

// What the editor leaves, as the content of the card. A box that a person drew or moved is theirs.
export function contentOf(card, { boxes, phrases }) {
  const { content } = card.whole;
  const caption = content.caption ? phrases.find((one) => one.id === CAPTION) : null;
  const places = new Map(boxes.map((box, i) => [box.id, i]));
  const placed = boxes.map(({ id, xyxy, category_id }) => {
    const was = content.boxes[id - 1];
    const same = was && String(was.xyxy) === String(xyxy);
    return { xyxy, category_id, score: same ? was.score : null, origin: same ? was.origin : "person" };
  });
  const named = phrases.filter((one) => one !== caption).map(({ text, spans, box_ids }) => ({ text, spans, boxes: box_ids.map((id) => places.get(id)) }));
  return { width: card.size[0], height: card.size[1], caption: caption?.text ?? "", phrases: named, boxes: placed };
}
