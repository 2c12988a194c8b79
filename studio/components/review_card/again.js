// Another attempt at a candidate, by a worker in the background.

import { el } from "../dom.js";

const HINT = "With another seed, as a new variant of the same target. Why earlier ones were rejected is told to the models.";

// The dialog; `make(wording, amount)` starts it, `closed()` gives the focus back.
export function againDialog(make, closed) {
  const words = el("input", { type: "text", maxlength: "300", placeholder: "as before", "aria-label": "In your own words" });
  const amount = el("input", { type: "number", min: "1", max: "16", value: "1", "aria-label": "How many" });
  const send = (event) => {
    event.preventDefault();
    dialog.close();
    make(words.value || null, Number(amount.value) || 1);
    words.value = "";
  };
  const cancel = el("button", { type: "button", class: "act", onclick: () => dialog.close() }, "Cancel", el("kbd", {}, "Esc"));
  const settings = el("div", { class: "settings" }, el("label", {}, "In your own words ", words), el("label", {}, "How many ", amount));
  const submit = el("button", { type: "submit", class: "act accept" }, "Make it again", el("kbd", {}, "Enter"));
  const form = el("form", { onsubmit: send }, settings, el("div", { class: "acts" }, cancel, submit));
  const dialog = el("dialog", { class: "ask", "aria-label": "Make it again", onclose: closed }, el("h2", {}, "Make it again"), el("p", {}, HINT), form);
  return dialog;
}
