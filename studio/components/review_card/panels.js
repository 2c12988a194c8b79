// What stands in place of a card when there is none.

import { el } from "../dom.js";
import { WORDS } from "./face.js";
import { shown } from "./status.js";

const TEXTS = {
  nothing: ["No data set yet", "Winnow reviews what it made from your data. Import a data set, or load the demo.", "datasets", "Import a data set"],
  empty: ["No candidates yet", "Nothing has been generated for this choice. Start a recipe, and its candidates appear here as they are made.", "generate", "Start a recipe"],
  done: ["All decided", "Freeze a snapshot of what was kept, and train on it.", "train", "Freeze and train"],
  none: ["None here", "No candidate of this queue is in that state. Choose another one under Show."],
};

// `links` are the addresses of the pages that empty states point to; `tally` is told when everything is decided.
export function panel(name, links, tally = null) {
  const [title, text, to, label] = TEXTS[name];
  const link = to ? el("div", { class: "acts" }, el("a", { href: links[to], class: "act accept" }, label)) : "";
  return [el("h2", {}, title), el("p", {}, text), tally ? summary(tally) : "", link];
}

function summary(tally) {
  const rows = Object.entries(WORDS).filter(([name]) => tally[name]);
  return el("ul", { class: "summary" }, rows.map(([name, word]) => el("li", { class: name }, el("b", {}, shown(tally[name])), ` ${word}`)));
}

export function trouble(error, again) {
  const button = el("button", { type: "button", class: "act accept", onclick: again }, "Try again");
  return [el("h2", {}, "This queue cannot be read"), el("p", {}, error.message), el("div", { class: "acts" }, button)];
}
