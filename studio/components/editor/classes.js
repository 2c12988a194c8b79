// Choosing among many classes by typing, and what is known of each class in an image.

import { el } from "../dom.js";

const MOST = 8;
const STATES = ["present", "absent", "unknown"];
let numbers = 0;

// Classes for a typed beginning: names that begin with it first, then words that do, then synonyms, then anything within.
export function matching(classes, typed) {
  const wanted = typed.trim().toLowerCase();
  if (!wanted) return classes.slice(0, MOST);
  const rank = ({ name, synonyms }) => {
    const plain = name.toLowerCase().replaceAll("_", " ");
    if (plain.startsWith(wanted)) return 0;
    if (plain.split(/\W+/).some((word) => word.startsWith(wanted))) return 1;
    if (synonyms.some((one) => one.toLowerCase().startsWith(wanted))) return 2;
    return plain.includes(wanted) ? 3 : 4;
  };
  const ranked = classes.map((one) => [rank(one), one]).filter(([place]) => place < 4);
  return ranked.sort((a, b) => a[0] - b[0]).slice(0, MOST).map(([, one]) => one);
}

// A field that finds a class while one types: arrows choose, Enter takes, Esc leaves. `take(id)`.
export class ClassField {
  constructor(classes, label, take) {
    Object.assign(this, { classes, take, at: 0, found: [] });
    const id = `class-list-${(numbers += 1)}`;
    this.list = el("ul", { role: "listbox", id, hidden: true });
    this.input = el("input", {
      type: "text", role: "combobox", autocomplete: "off", spellcheck: "false", "aria-label": label, "aria-controls": id, "aria-expanded": "false", placeholder: "type a class",
      oninput: () => this.offer(), onfocus: () => this.focused(), onblur: () => this.close(), onkeydown: (event) => this.press(event),
    });
    this.root = el("div", { class: "typeahead" }, this.input, this.list);
  }

  show(id) {
    this.name = this.classes.find((one) => one.id === id)?.name ?? "";
    if (document.activeElement !== this.input) this.input.value = this.name;
  }

  focused() {
    this.input.select();
    this.offer("");
  }

  offer(typed = this.input.value) {
    this.found = matching(this.classes, typed);
    this.at = 0;
    this.draw();
  }

  draw() {
    this.list.replaceChildren(
      ...this.found.map((one, i) => {
        const also = one.synonyms.filter((name) => name !== one.name).slice(0, 3).join(", ");
        return el("li", { role: "option", "aria-selected": String(i === this.at), onpointerdown: (event) => this.pick(event, one) }, one.name.replaceAll("_", " "), also ? el("small", {}, also) : "");
      }),
      ...(this.found.length ? [] : [el("li", { class: "none" }, "no such class in this data set")]),
    );
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
  }

  press(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && this.found.length) {
      this.at = (this.at + step + this.found.length) % this.found.length;
      this.draw();
    } else if (event.key === "Enter" && this.found[this.at]) this.pick(event, this.found[this.at]);
    else if (event.key === "Escape") this.input.blur();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  pick(event, one) {
    event.preventDefault();
    this.name = one.name;
    this.input.blur();
    this.take(one.id);
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.input.value = this.name ?? "";
  }
}

// LVIS's three states. `known`: id -> state as the lists of the imported files say; `set(id, state)`.
export class Presence {
  constructor(classes, known, set) {
    Object.assign(this, { classes, known, set });
    this.names = new Map(classes.map((one) => [one.id, one.name]));
    this.added = new Set();
    this.list = el("ul", { class: "presence" });
    this.field = new ClassField(classes, "Say something of another class", (id) => this.add(id));
    this.field.input.placeholder = "another class…";
    this.root = el("div", {}, this.list, this.field.root);
  }

  add(id) {
    this.added.add(id);
    this.field.show(null);
    this.show(this.state);
    this.list.querySelector(`[data-class="${id}"] button`)?.focus();
  }

  show(state) {
    this.state = state;
    const counts = new Map();
    for (const { category_id } of state.boxes) if (category_id !== null) counts.set(category_id, (counts.get(category_id) ?? 0) + 1);
    for (const id of counts.keys()) this.added.add(id); // stays when its last box goes: that is when one says absent
    const ids = new Set([...Object.keys(this.known).map(Number), ...Object.keys(state.classes).map(Number), ...this.added]);
    const sorted = [...ids].sort((a, b) => (this.names.get(a) ?? "").localeCompare(this.names.get(b) ?? ""));
    this.list.replaceChildren(...sorted.map((id) => this.line(id, counts.get(id) ?? 0)));
  }

  line(id, boxes) {
    const now = this.state.classes[id] ?? (boxes ? "present" : (this.known[id] ?? "unknown"));
    const button = (state) => {
      const refused = boxes > 0 && state !== "present";
      const title = refused ? `${boxes} of its boxes are drawn; delete them first` : `verified: ${state}`;
      return el("button", { type: "button", class: state, "aria-pressed": String(now === state), disabled: refused, title, onclick: () => this.set(id, state) }, state);
    };
    const said = this.state.classes[id] === undefined ? "" : el("i", { title: "said by a person" }, "✓");
    return el("li", { "data-class": id }, el("span", {}, (this.names.get(id) ?? `class ${id}`).replaceAll("_", " "), boxes ? el("small", {}, ` × ${boxes}`) : "", said), el("span", { class: "three", role: "group" }, STATES.map(button)));
  }
}
