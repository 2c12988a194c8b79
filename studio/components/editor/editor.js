// Mending a candidate and the annotations of its image: boxes, classes, texts, and what is known of each class.

import { el } from "../dom.js";
import { get } from "../review_card/deck.js";
import { segments } from "../review_card/face.js";
import { contentOf, sceneOf } from "../review_card/whole.js";
import { ClassField, Presence } from "./classes.js";
import { Model, OWN, draftOf } from "./model.js";
import { Surface } from "./surface.js";
import { Texts, difference } from "./texts.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const FAR = 10; // pixels of a step with Shift
const ZOOMS = { "+": 1.25, "=": 1.25, "-": 0.8, 0: 0 }; // 0: the whole picture again
const FIELDS = "input, textarea, select";

const HINTS = [
  ["drag", "draw, move"],
  ["← → ↑ ↓", "move, Shift far, Alt resizes"],
  ["Tab", "next"],
  ["n", "new"],
  ["Enter", "class"],
  ["Del", "delete"],
  ["+ − 0", "zoom"],
];

export class Editor {
  // Reads what is there, then builds. `waiting`: corrections that the server has not heard of yet; `kept(changes)` takes over
  // what was changed, `closed()` is called in any case.
  static async open(card, options) {
    const [scene, classes] = await Promise.all([card.whole ? sceneOf(card) : get(`/api/edits/image/${card.image}`), get(`/api/edits/classes/${card.dataset}`)]);
    const late = !card.whole && options.waiting.findLast((one) => one.image_id === card.image);
    if (late) Object.assign(scene, late.draft, { number: late.base + 1 });
    return new Editor(card, scene, classes, options);
  }

  constructor(card, scene, classes, { kept, closed }) {
    Object.assign(this, { card, scene, classes, kept, closed });
    this.names = new Map(classes.map((one) => [one.id, one.name]));
    this.model = new Model(stateOf(card, scene), scene.image.size);
    this.after = Boolean(card.after);
    this.selected = this.model.state.own ? OWN : null;
    this.linkingTo = null;
    this.surface = new Surface(scene.image.size, {
      select: (id) => this.pick(id),
      change: (id, xyxy, kind) => this.did(() => this.model.setBox(id, { xyxy }, kind)),
      draw: (xyxy) => this.draw(xyxy),
    });
    this.build();
  }

  get changed() {
    return this.model.imageChanged || this.model.correction(this.card.correction) !== null;
  }

  show() {
    this.root.showModal();
    this.render();
    this.surface.root.focus();
  }

  // Building, once

  build() {
    const { card } = this;
    this.note = el("p", { class: "note", role: "status" });
    this.save = el("button", { type: "button", class: "act accept", onclick: () => this.keep() });
    this.field = new ClassField(this.classes, "Class of the box", (id) => this.did(() => this.model.setBox(this.selected, { category_id: id })));
    this.numbers = ["x", "y", "width", "height"].map((name, i) => el("input", { type: "number", step: "0.1", min: "0", "aria-label": name, onchange: (event) => this.measured(i, Number(event.target.value)) }));
    this.presence = new Presence(this.classes, this.scene.known, (id, state) => this.did(() => this.model.setClass(id, state)));
    this.texts = new Texts(this.model, { changed: () => this.render(), linking: (id) => this.link(id), said: (text) => this.tell(text) });
    this.surface.root.tabIndex = 0;
    this.surface.root.setAttribute("aria-label", "Boxes: Tab chooses, arrows move, Alt with arrows resizes, n draws, Delete deletes");
    const button = (label, run, attributes = {}) => el("button", { type: "button", class: "act", onclick: run, ...attributes }, label);
    this.undoButton = button("Undo", () => this.did(() => this.model.undo()));
    this.redoButton = button("Redo", () => this.did(() => this.model.redo()));
    this.root = el(
      "dialog",
      { class: card.whole ? "editor whole" : "editor", tabindex: "-1", "aria-label": `Mend candidate ${card.id}`, onkeydown: (event) => this.press(event), oncancel: (event) => this.leave(event), onclose: () => this.closed() },
      el("header", {}, el("h2", {}, `Mend candidate ${card.id}`), card.after && !card.whole ? this.sides() : "", this.history(), el("ul", { class: "hints" }, HINTS.map(([key, what]) => el("li", {}, el("kbd", {}, key), what)))),
      el("div", { class: "desk" }, this.surface.root, el("div", { class: "tools" }, this.boxTools(), card.texts ? this.candidateText() : "", section("Texts of the image", this.texts.root), card.whole ? "" : section("Classes in the image", this.presence.root))),
      el("footer", {}, this.note, this.undoButton, this.redoButton, button("Cancel", () => this.leave(), { title: "Esc" }), this.save),
    );
  }

  sides() {
    const side = (label, after) => el("button", { type: "button", "aria-pressed": String(this.after === after), onclick: () => this.turn(after) }, label);
    this.side = el("span", { class: "three", role: "group", "aria-label": "Picture" }, side("Before", false), side("After", true));
    return this.side;
  }

  turn(after) {
    this.after = after;
    this.side.childNodes.forEach((button, i) => button.setAttribute("aria-pressed", String(Boolean(i) === after)));
    if (!this.visible().some((box) => box.id === this.selected)) this.selected = null;
    this.render();
  }

  // Every version that was ever kept; choosing one brings it back as a change of its own.
  history() {
    const { versions, number } = this.scene;
    if (versions.length < 2) return "";
    const title = (one) => (one.number ? `${one.number} · ${one.reviewer}, ${new Date(one.at * 1000).toLocaleString()}` : "0 · as imported");
    const chosen = el("select", { "aria-label": "Versions of the image", onchange: () => this.restore(chosen) }, versions.map((one) => el("option", { value: one.number, selected: one.number === number }, `Version ${title(one)}`)));
    return chosen;
  }

  async restore(chosen) {
    try {
      const old = await get(`/api/edits/image/${this.scene.image.id}/${chosen.value}`);
      this.did(() => this.model.put({ boxes: old.boxes, phrases: old.phrases, classes: old.classes }));
      this.tell(`Version ${chosen.value} is laid out. Saving it makes a new version; nothing is overwritten.`);
    } catch (error) {
      this.tell(`Version ${chosen.value} cannot be read: ${error.message}.`);
    }
  }

  boxTools() {
    const labels = ["x", "y", "w", "h"];
    this.remove = el("button", { type: "button", class: "plain", onclick: () => this.delete() }, "Delete");
    const fields = el("div", { class: "numbers" }, this.numbers.map((input, i) => el("label", {}, labels[i], input)));
    this.tools = el("div", { class: "box-tools" }, this.field.root, fields, this.remove);
    this.boxName = el("h3", {});
    const draw = el("button", { type: "button", class: "plain", onclick: () => this.newBox() }, "+ new box");
    return el("section", {}, el("div", { class: "line" }, this.boxName, draw), this.tools);
  }

  candidateText() {
    this.text = el("textarea", { rows: "2", dir: "auto", "aria-label": "Text after", oninput: () => this.did(() => this.model.setText(this.text.value)) });
    this.changedWords = el("p", { class: "words", dir: "auto" });
    return section("Text after", el("p", { class: "quiet", dir: "auto" }, "Before: ", before(this.card)), this.text, this.changedWords);
  }

  // Changing

  did(change) {
    change();
    this.tell("");
    this.render();
  }

  pick(id) {
    if (this.linkingTo !== null && typeof id === "number") return this.did(() => this.model.link(this.linkingTo, id));
    if (this.linkingTo !== null && id === OWN) return this.tell("The candidate's own box is no box of the image; phrases name boxes of the image.");
    this.selected = id;
    this.render();
  }

  link(id) {
    this.linkingTo = id;
    this.root.classList.toggle("linking", id !== null);
    const phrase = this.model.state.phrases.find((one) => one.id === id);
    this.tell(phrase ? `Click the boxes that “${phrase.text}” names; Esc when done.` : "");
  }

  draw(xyxy) {
    const like = this.model.box(this.selected)?.category_id ?? this.card.category ?? null;
    this.did(() => (this.selected = this.model.draw(xyxy, like)));
    this.field.input.focus();
  }

  newBox() {
    const [width, height] = this.scene.image.size;
    this.draw([width * 0.375, height * 0.375, width * 0.625, height * 0.625].map(Math.round));
    this.surface.root.focus();
  }

  delete() {
    if (this.selected === OWN) return this.tell("The candidate's own box cannot be deleted: reject the candidate instead.");
    if (this.selected === null) return;
    const id = this.selected;
    this.selected = null;
    this.did(() => this.model.removeBox(id));
  }

  measured(i, value) {
    const [x1, y1, x2, y2] = this.model.box(this.selected).xyxy;
    const size = [x1, y1, x2 - x1, y2 - y1];
    size[i] = value;
    const next = this.model.inside([size[0], size[1], size[0] + size[2], size[1] + size[3]]);
    if (next[2] - next[0] < 1 || next[3] - next[1] < 1) this.tell("A box is at least one pixel wide and high, and lies inside the image.");
    else this.did(() => this.model.setBox(this.selected, { xyxy: next }));
    this.render();
  }

  // Keys

  press(event) {
    const typing = event.target.closest(FIELDS) !== null;
    const ctrl = event.ctrlKey || event.metaKey;
    if (ctrl && (event.key === "Enter" || event.key.toLowerCase() === "s")) this.keep();
    else if (ctrl && event.key.toLowerCase() === "z" && !typing) this.did(() => (event.shiftKey ? this.model.redo() : this.model.undo()));
    else if (event.key === "Escape" && typing) event.target.blur(), this.surface.root.focus();
    else if (typing || ctrl || !this.boxKey(event)) return event.stopPropagation();
    event.preventDefault();
    event.stopPropagation();
  }

  boxKey(event) {
    const arrow = ARROWS[event.key];
    const onSurface = event.target === this.surface.root || event.target === this.root;
    if (event.key === "Escape") this.linkingTo !== null ? (this.texts.choose(null), this.surface.root.focus()) : this.leave();
    else if (event.key === "n") this.newBox();
    else if (event.key in ZOOMS) this.surface.magnify(ZOOMS[event.key]);
    else if (event.key === "Delete" && onSurface) this.delete();
    else if (arrow && this.selected !== null && onSurface) this.step(arrow, event);
    else if (event.key === "Tab" && onSurface) return this.next(event.shiftKey ? -1 : 1);
    else if (event.key === "Enter" && onSurface && this.selected !== null) this.field.input.focus();
    else return false;
    return true;
  }

  step([dx, dy], { shiftKey, altKey }) {
    const far = shiftKey ? FAR : 1;
    const change = altKey ? "grow" : "move";
    this.did(() => this.model[change](this.selected, dx * far, dy * far, `${change} ${this.selected}`));
  }

  // False past the last box: Tab then goes on to the tools.
  next(step) {
    const ids = this.visible().map((box) => box.id);
    const at = ids.indexOf(this.selected) + step;
    if (at < 0 || at >= ids.length) return false;
    this.pick(ids[at]);
    return true;
  }

  // Drawing

  // On the picture after, the box that was painted over is not there any more. A box is called by its class, else by the phrases
  // that name it.
  visible() {
    const { boxes, own, phrases } = this.model.state;
    const naming = (id) => phrases.filter((one) => one.box_ids.includes(id)).map((one) => one.text).join(", ");
    const label = ({ id, category_id }) => this.names.get(category_id)?.replaceAll("_", " ") ?? (naming(id) || "no class");
    const others = boxes.filter((box) => !(this.after && box.id === this.card.box)).map((box) => ({ ...box, label: label(box), kind: box.id < 0 ? "new" : "other" }));
    return own && this.after ? [{ id: OWN, xyxy: own.xyxy, label: label({ ...own, id: OWN }), kind: "own" }, ...others] : others;
  }

  render() {
    const { card, model } = this;
    const picture = (this.after ? card.after?.url : null) ?? this.scene.url;
    const phrase = model.state.phrases.find((one) => one.id === this.linkingTo);
    const shown = this.visible();
    if (!shown.some((box) => box.id === this.selected)) this.selected = null;
    this.surface.show(picture, shown, this.selected, phrase?.box_ids);
    this.renderBox();
    if (this.text) {
      if (this.text.value !== model.state.text) this.text.value = model.state.text;
      this.changedWords.replaceChildren(...segments(difference(before(card), model.state.text), "ins"));
    }
    this.texts.show();
    this.presence.show(model.state);
    this.undoButton.disabled = model.at === 0;
    this.redoButton.disabled = model.at === model.states.length - 1;
    const edit = model.correction(card.correction);
    this.save.replaceChildren(edit || card.whole ? "Save and accept" : "Save", el("kbd", {}, "Ctrl+Enter"));
    this.save.disabled = !this.changed;
    if (!this.root.contains(document.activeElement)) this.root.focus(); // what was pressed may be gone
  }

  renderBox() {
    const box = this.model.box(this.selected);
    this.tools.hidden = !box;
    this.boxName.textContent = !box ? "No box selected" : this.selected === OWN ? "The candidate's box" : this.selected < 0 ? "A new box" : `Box ${this.selected}`;
    this.remove.hidden = this.selected === OWN;
    if (!box) return;
    const [x1, y1, x2, y2] = box.xyxy;
    this.field.show(box.category_id);
    [x1, y1, x2 - x1, y2 - y1].forEach((value, i) => (this.numbers[i].value = Math.round(value * 10) / 10));
    const was = this.scene.boxes.find((one) => one.id === this.selected);
    if (was?.masked && String(was.xyxy) !== String(box.xyxy)) this.tell("Its mask no longer fits this box, and goes when you save.");
  }

  tell(text) {
    this.note.textContent = text;
  }

  // Leaving

  keep() {
    if (!this.changed) return;
    const empty = this.model.state.phrases.find((one) => !one.text.trim()) ?? (this.card.texts && !this.model.state.text.trim() ? {} : null);
    if (empty) return this.tell("A text is empty: write it, or delete it.");
    if (this.card.whole) return this.keepWhole();
    const edit = this.model.correction(this.card.correction);
    const draft = this.model.imageChanged ? this.model.draft : null;
    this.card.edition = this.scene.number;
    this.root.close();
    this.kept({ edit, draft, earlier: draftOf(this.scene), names: this.names });
  }

  // Of a whole image everything that is said of it is the candidate's own.
  keepWhole() {
    this.root.close();
    this.kept({ edit: { content: contentOf(this.card, this.model.state) }, draft: null, earlier: null, names: this.names });
  }

  // Once more when there is something to lose.
  leave(event) {
    if (!this.changed || this.asked) return this.root.open && this.root.close();
    event?.preventDefault();
    this.asked = true;
    setTimeout(() => (this.asked = false), 4000);
    this.tell("Nothing is saved yet. Esc or Cancel once more drops the changes.");
  }
}

// The picture and its annotations as the model takes them.
function stateOf(card, scene) {
  const own = card.after?.xyxy ? { xyxy: card.after.xyxy, category_id: card.correction.category_id ?? card.category } : null;
  const text = card.texts ? (card.texts.corrected ?? joined(card.texts.after)) : null;
  return { boxes: scene.boxes, phrases: scene.phrases, classes: scene.classes, own, text };
}

function joined(parts) {
  return parts.map(([text]) => text).join("");
}

function before(card) {
  return joined(card.texts.before);
}

function section(title, ...children) {
  return el("section", {}, el("h3", {}, title), children);
}
