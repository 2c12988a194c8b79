// The `?` dialog: every key, to be changed on the spot, the reviewer's name, and the tour.

import { el } from "../dom.js";
import { chord } from "../keys.js";
import { COMMANDS, PRESETS, keyName, title } from "./keymap.js";

const KEYS_OFF = "winnow.keys-off";

export const keysAreOn = () => localStorage.getItem(KEYS_OFF) === null;

export class Help {
  // `changed()` after keys changed, `rename(name)` (null for somebody who is signed in), `tour()`, `closed()`.
  constructor(keymap, { reviewer, changed, rename, tour, closed }) {
    this.keymap = keymap;
    this.changed = changed;
    this.list = el("dl", {});
    this.said = el("p", { class: "said", role: "status" });
    this.waiting = null;
    const given = rename === null ? { readonly: true, title: "The name you signed in with" } : { onchange: () => rename(name.value) };
    const name = el("input", { type: "text", maxlength: "80", value: reviewer, ...given });
    const keys = el("input", { type: "checkbox", onchange: () => switchKeys(keys.checked) });
    keys.checked = keysAreOn();
    const presets = el("select", { onchange: () => this.choose(presets) }, el("option", { value: "" }, "Choose…"), Object.keys(PRESETS).map((one) => el("option", { value: one }, one)));
    this.root = el(
      "dialog",
      { class: "help", "aria-label": "Keys and settings", onclose: closed, onkeydown: (event) => this.press(event) },
      el("h2", {}, "Keys"),
      el("p", { class: "quiet" }, "Press a key's button to change it. Keys rest while you type. ", el("a", { href: "/help?topic=review", target: "_blank", rel: "noopener" }, "How Review works"), "."),
      this.list,
      this.said,
      el("div", { class: "settings" }, el("label", {}, "Your name in the record ", name), el("label", {}, "Keys for ", presets), el("label", {}, keys, " Decide with single keys")),
      el("div", { class: "acts" }, el("button", { type: "button", class: "act", onclick: () => this.leave(tour) }, "Show the tour"), el("button", { type: "button", class: "act", autofocus: true, onclick: () => this.root.close() }, "Close", el("kbd", {}, "Esc"))),
    );
    this.draw();
  }

  get open() {
    return this.root.open;
  }

  show() {
    this.told("");
    this.draw();
    this.root.showModal();
  }

  leave(then) {
    this.root.close();
    then();
  }

  draw() {
    const reasons = [el("dt", {}, el("kbd", {}, "1 – 9")), el("dd", {}, "reject, and say why")];
    this.list.replaceChildren(...COMMANDS.flatMap((command) => this.row(command)), ...reasons);
  }

  row([name, what, , second]) {
    const waits = this.waiting === name;
    const label = waits ? "press a key" : keyName(this.keymap.of(name));
    const button = el("button", { type: "button", class: waits ? "key waits" : "key", "data-command": name, "aria-label": `Key for ${what}: ${label}`, onclick: () => this.wait(name) }, label);
    return [el("dt", {}, button, second ? el("kbd", {}, keyName(second)) : null), el("dd", {}, what)];
  }

  wait(name) {
    this.waiting = name;
    this.told(`Press the new key for “${title(name)}”, or Esc to keep ${keyName(this.keymap.of(name))}.`);
    this.draw();
    this.list.querySelector(`[data-command="${name}"]`).focus();
  }

  press(event) {
    if (this.waiting === null || ["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
    const name = this.waiting;
    this.waiting = null;
    this.give(name, event.key === "Escape" ? this.keymap.of(name) : chord(event));
    this.draw();
    this.list.querySelector(`[data-command="${name}"]`).focus();
  }

  give(name, key) {
    if (key === null) return this.told("Keys with Alt belong to the browser; choose another one.", true);
    const taken = this.keymap.bind(name, key);
    if (taken !== null) return this.told(`${keyName(key)} already means “${taken}”. Nothing was changed; give that another key first.`, true);
    this.told(`“${title(name)}” is on ${keyName(key)} now.`);
    this.changed();
  }

  choose(presets) {
    if (!presets.value) return;
    this.keymap.preset(presets.value);
    this.told(`Keys for ${presets.value} are in place.`);
    presets.value = "";
    this.changed();
    this.draw();
  }

  told(text, bad = false) {
    this.said.textContent = text;
    this.said.classList.toggle("bad", bad);
  }
}

function switchKeys(on) {
  if (on) localStorage.removeItem(KEYS_OFF);
  else localStorage.setItem(KEYS_OFF, "1");
}
