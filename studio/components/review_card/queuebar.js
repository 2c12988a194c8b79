// The choice of a queue, which stands in the address of the page.

import { el } from "../dom.js";

const LABELS = { dataset: "Data set", run: "Run", kind: "Kind", order: "Order", human: "Show" };
const DEFAULTS = { order: "oldest", human: "undecided" };
const SHOWN = [
  ["undecided", "Undecided"],
  ["accept", "Accepted"],
  ["edit", "Corrected"],
  ["reject", "Rejected"],
  ["skip", "Skipped"],
  ["flag", "Flagged"],
  ["disputed", "In dispute"],
  ["any", "All"],
];

export class QueueBar {
  // `changed()` when another queue was chosen.
  constructor(changed) {
    this.changed = changed;
    this.query = { ...Object.fromEntries(Object.keys(LABELS).map((name) => [name, null])), ...DEFAULTS, ...Object.fromEntries(new URLSearchParams(location.search)) };
    delete this.query.__theme; // Gradio's own
    this.selects = {};
    this.root = Object.entries(LABELS).map(([name, label]) => {
      this.selects[name] = el("select", { "aria-label": label, onchange: () => this.choose(name) });
      return el("label", {}, el("span", {}, label), this.selects[name]);
    });
  }

  offer(setup) {
    this.query.dataset = setup.dataset;
    const all = (title) => ({ value: "", title });
    const choices = {
      dataset: setup.datasets,
      run: [all("All runs"), ...setup.runs],
      kind: [all("All kinds"), ...setup.kinds],
      order: setup.orders,
      human: SHOWN.map(([value, title]) => ({ value, title })),
    };
    for (const [name, options] of Object.entries(choices)) this.fill(name, options);
  }

  fill(name, options) {
    const chosen = String(this.query[name] ?? "");
    this.selects[name].replaceChildren(...options.map(({ value, title }) => el("option", { value, selected: String(value) === chosen }, title)));
  }

  choose(name) {
    this.query[name] = this.selects[name].value;
    if (name === "dataset") this.query = { ...DEFAULTS, dataset: this.query.dataset };
    const given = Object.entries(this.query).filter(([, value]) => value);
    history.replaceState(null, "", `${location.pathname}?${new URLSearchParams(given)}`); // "?" alone would follow the <base> of Gradio's page
    this.selects[name].blur();
    return this.changed();
  }
}
