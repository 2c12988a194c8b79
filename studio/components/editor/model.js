// What the editor changes: one plain value, every state of which is kept, so that undo is going back.
//
// {boxes: [{id, xyxy, category_id, masked}], phrases: [{id, text, parent_id, spans, box_ids, holds}], classes: {id: state},
//  own: {xyxy, category_id} or null, text: string or null}. `own` is the candidate's own box, `text` its negative text. What
// is added has a negative id.

import { follow } from "./spans.js";

const MERGE = 700; // ms within which repeated small steps of one kind are one step to undo

export const OWN = "own";

export class Model {
  constructor(state, size) {
    this.size = size;
    this.first = state;
    this.states = [state];
    this.at = 0;
    this.last = { kind: "", time: 0 };
  }

  get state() {
    return this.states[this.at];
  }

  get changes() {
    return this.at;
  }

  // `kind` names the step; the same kind again, soon after, continues it.
  put(change, kind = "") {
    const now = performance.now();
    const goesOn = kind && kind === this.last.kind && now - this.last.time < MERGE && this.at > 0;
    this.last = { kind, time: now };
    this.states.length = this.at + 1;
    const next = { ...this.state, ...change };
    if (goesOn) this.states[this.at] = next;
    else this.at = this.states.push(next) - 1;
  }

  undo() {
    this.last.kind = "";
    this.at = Math.max(0, this.at - 1);
  }

  redo() {
    this.last.kind = "";
    this.at = Math.min(this.states.length - 1, this.at + 1);
  }

  // Boxes

  box(id) {
    return id === OWN ? this.state.own : (this.state.boxes.find((box) => box.id === id) ?? null);
  }

  setBox(id, change, kind = "") {
    if (id === OWN) return this.put({ own: { ...this.state.own, ...change } }, kind);
    this.put({ boxes: this.state.boxes.map((box) => (box.id === id ? { ...box, ...change } : box)) }, kind);
  }

  move(id, dx, dy, kind = "") {
    const [x1, y1, x2, y2] = this.box(id).xyxy;
    const [width, height] = this.size;
    const [w, h] = [x2 - x1, y2 - y1];
    const left = Math.min(Math.max(0, x1 + dx), width - w);
    const top = Math.min(Math.max(0, y1 + dy), height - h);
    this.setBox(id, { xyxy: [left, top, left + w, top + h] }, kind);
  }

  // The lower right corner by so much; a box keeps at least a pixel.
  grow(id, dx, dy, kind = "") {
    const [x1, y1, x2, y2] = this.box(id).xyxy;
    this.setBox(id, { xyxy: this.inside([x1, y1, Math.max(x1 + 1, x2 + dx), Math.max(y1 + 1, y2 + dy)]) }, kind);
  }

  inside(xyxy) {
    return xyxy.map((value, i) => Math.min(Math.max(0, value), this.size[i % 2]));
  }

  draw(xyxy, category_id) {
    const id = this.newId(this.state.boxes);
    this.put({ boxes: [...this.state.boxes, { id, xyxy, category_id, masked: false }] });
    return id;
  }

  removeBox(id) {
    const boxes = this.state.boxes.filter((box) => box.id !== id);
    const phrases = this.state.phrases.map((one) => ({ ...one, box_ids: one.box_ids.filter((box) => box !== id) }));
    this.put({ boxes, phrases });
  }

  // Texts

  setText(text) {
    this.put({ text }, "text");
  }

  setPhrase(id, change, kind = "") {
    this.put({ phrases: this.state.phrases.map((one) => (one.id === id ? { ...one, ...change } : one)) }, kind);
  }

  // A caption with other words: its phrases keep their places. Answers the texts of those that lost theirs.
  setCaption(id, text) {
    const caption = this.state.phrases.find((one) => one.id === id);
    const { phrases, lost } = follow(caption.text, text, this.state.phrases.filter((one) => one.parent_id === id));
    const others = this.state.phrases.filter((one) => one.parent_id !== id).map((one) => (one.id === id ? { ...one, text } : one));
    this.put({ phrases: [...others, ...phrases] }, `caption ${id}`);
    return lost;
  }

  addPhrase(values) {
    const id = this.newId(this.state.phrases);
    this.put({ phrases: [...this.state.phrases, { id, parent_id: null, spans: [], box_ids: [], holds: true, ...values }] });
    return id;
  }

  removePhrase(id) {
    this.put({ phrases: this.state.phrases.filter((one) => one.id !== id && one.parent_id !== id) });
  }

  link(phrase, box) {
    const { box_ids } = this.state.phrases.find((one) => one.id === phrase);
    this.setPhrase(phrase, { box_ids: box_ids.includes(box) ? box_ids.filter((id) => id !== box) : [...box_ids, box] });
  }

  // Classes of the image

  setClass(id, state) {
    this.put({ classes: { ...this.state.classes, [id]: state } });
  }

  newId(items) {
    return Math.min(0, ...items.map((item) => item.id)) - 1;
  }

  // What is to be sent

  get draft() {
    return draftOf(this.state);
  }

  get imageChanged() {
    return JSON.stringify(draftOf(this.first)) !== JSON.stringify(this.draft);
  }

  // The candidate's own corrections, null for none; `before` holds earlier ones, which stay.
  correction(before = {}) {
    const { own, text } = this.state;
    const edit = { ...before };
    if (own && String(own.xyxy) !== String(this.first.own.xyxy)) edit.xyxy = own.xyxy;
    if (own && own.category_id !== this.first.own.category_id) edit.category_id = own.category_id;
    if (text !== this.first.text) edit.text_after = text;
    return JSON.stringify(edit) === JSON.stringify(before) ? null : edit;
  }
}

export function draftOf({ boxes, phrases, classes }) {
  return {
    boxes: boxes.map(({ id, xyxy, category_id }) => ({ id, xyxy, category_id })),
    phrases: phrases.map(({ id, text, parent_id, spans, box_ids, holds }) => ({ id, text, parent_id, spans, box_ids, holds })),
    classes,
  };
}
