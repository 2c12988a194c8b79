// Captions and phrases: words with live spans, and the boxes that each phrase names.

import { el } from "../dom.js";
import { visible } from "../review_card/visible.js";
import { counted, cut, piece, standing } from "./spans.js";

export class Texts {
  // `model` is changed through its own methods, then `changed()`; `linking(id)` when boxes are to be linked to a phrase.
  constructor(model, { changed, linking, said }) {
    Object.assign(this, { model, changed, linking, said });
    this.active = null; // the phrase whose boxes are being chosen
    this.fields = new Map();
    this.root = el("div", { class: "texts" });
  }

  show() {
    const held = document.activeElement; // moving a node drops its focus
    const { phrases } = this.model.state;
    const tops = phrases.filter((one) => one.parent_id === null);
    const blocks = tops.map((one) => this.block(one, phrases.filter((child) => child.parent_id === one.id)));
    const add = (label, values) => el("button", { type: "button", class: "plain", onclick: () => this.add(values) }, label);
    this.root.replaceChildren(...(blocks.length ? blocks : [el("p", { class: "quiet" }, "This image has no texts.")]), el("footer", {}, add("+ true text", { holds: true }), add("+ false text", { holds: false })));
    if (this.root.contains(held)) held.focus();
  }

  add(values) {
    const id = this.model.addPhrase({ text: "", ...values });
    this.changed();
    this.fields.get(id)?.focus();
  }

  block(one, children) {
    const kind = one.holds ? "" : el("em", { class: "false" }, "false of this image");
    const remove = el("button", { type: "button", class: "plain", "aria-label": "Delete this text", title: "Delete this text and its phrases", onclick: () => this.then(() => this.model.removePhrase(one.id)) }, "✕");
    const mark = el("button", { type: "button", class: "plain", title: "Select some words of the text first", onpointerdown: (event) => event.preventDefault(), onclick: () => this.mark(one) }, "Mark selected words as a phrase");
    const preview = children.length ? el("p", { class: "spans", dir: "auto" }, cut(one.text, children).map((part) => this.part(part))) : "";
    return el("section", { class: "caption" }, el("div", { class: "line" }, this.field(one), remove), kind, preview, el("ul", {}, children.map((child) => this.phrase(child, one))), el("div", { class: "line" }, mark, this.linkButton(one)));
  }

  // The same field for the same text, so that the caret stays where it is.
  field(one) {
    if (!this.fields.has(one.id)) this.fields.set(one.id, this.newField(one.id));
    const field = this.fields.get(one.id);
    if (field.value !== one.text) field.value = one.text;
    return field;
  }

  newField(id) {
    const field = el("textarea", { rows: "2", dir: "auto", "aria-label": "Text", oninput: () => this.typed(id, field.value) });
    return field;
  }

  typed(id, text) {
    const lost = this.model.setCaption(id, text);
    if (lost.length) this.said(`The text no longer holds ${lost.map((one) => `“${one}”`).join(", ")}: ${lost.length === 1 ? "this phrase is" : "these phrases are"} gone. Ctrl+Z brings back.`);
    this.changed();
  }

  part({ text, ids }) {
    if (!ids.length) return el("span", {}, visible(text));
    return el("mark", { class: ids.includes(this.active) ? "active" : "", title: "Choose its boxes", onclick: () => this.choose(ids.at(-1)) }, visible(text));
  }

  phrase(child, caption) {
    const remove = el("button", { type: "button", class: "plain", "aria-label": `Delete the phrase ${child.text}`, onclick: () => this.then(() => this.model.removePhrase(child.id)) }, "✕");
    const where = child.spans.length ? standing(caption.text, child.spans) : "nowhere in the text";
    return el("li", { class: child.id === this.active ? "active" : "" }, el("span", { dir: "auto" }, visible(child.text)), el("small", {}, where), this.linkButton(child), remove);
  }

  linkButton(one) {
    const active = one.id === this.active;
    const count = one.box_ids.length;
    return el("button", { type: "button", class: "plain link", "aria-pressed": String(active), onclick: () => this.choose(active ? null : one.id) }, active ? "Done" : `${count || "no"} box${count === 1 ? "" : "es"}`);
  }

  choose(id) {
    this.active = id;
    this.linking(id);
    this.changed();
  }

  mark(caption) {
    const field = this.fields.get(caption.id);
    const [from, to] = [field.selectionStart, field.selectionEnd].map((at) => counted(field.value, at));
    if (from >= to) return this.said("Select the words of the phrase in the text first.");
    const spans = [[from, to]];
    const id = this.model.addPhrase({ text: piece(caption.text, spans), parent_id: caption.id, spans });
    this.choose(id);
  }

  then(change) {
    change();
    this.active = null;
    this.linking(null);
    this.changed();
  }
}

// Words of two texts, the changed ones marked: the longest common run of words stays.
export function difference(before, after) {
  const [a, b] = [before, after].map((text) => text.match(/\s+|[\p{L}\p{N}\p{M}]+|[^\s\p{L}\p{N}\p{M}]/gu) ?? []);
  if (a.length * b.length > 250_000) return [[after, true]];
  const best = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1) best[i][j] = a[i] === b[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  const parts = [];
  const add = (text, changed) => (parts.at(-1)?.[1] === changed ? (parts.at(-1)[0] += text) : parts.push([text, changed]));
  for (let i = 0, j = 0; j < b.length; ) {
    if (i < a.length && a[i] === b[j]) add(b[j], false), (i += 1), (j += 1);
    else if (i < a.length && best[i + 1][j] >= best[i][j + 1]) i += 1;
    else add(b[j], true), (j += 1);
  }
  return parts;
}
