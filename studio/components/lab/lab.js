// The threshold lab: what the filters measured, what a policy makes of it, and what would change if it were another.

import { el, svg } from "../dom.js";
import { get } from "../review_card/deck.js";
import { Chart } from "./chart.js";
import { BOUNDS, equal, grouped, inForce, moved, number, sentence, without } from "./rules.js";
import { Scatter } from "./scatter.js";

const CALM = 50; // ms without a change before the server is asked
const KEPT = "winnow.lab"; // thresholds on trial, so that a visit to Review does not lose them
const PLACE = ["dataset", "run", "kind", "category"];
const LABELS = { dataset: "Data set", run: "Run", kind: "Kind", category: "Class" };
const STATES = ["accept", "reject", "pending"];
const WORDS = { accept: "accepted", reject: "rejected", pending: "pending" };
const MEASURES = { precision: "precision", recall: "recall", f1: "F1" };
const GROUPS = ["", "A", "B", "C", "D"];

// Builds the lab in `element`. `links` are the addresses of the pages that it points to.
export function mount(element, { links }) {
  const place = element.querySelector(".lab-place") ?? element;
  if (place.childElementCount) return; // drawn already
  new Lab(place, links).start();
}

class Lab {
  constructor(place, links) {
    this.links = links;
    this.answered = 0;
    this.build(place);
  }

  // Building, once

  build(place) {
    this.selects = {};
    this.strip = el("div", { class: "lab-strip", role: "status", "aria-live": "polite" });
    this.says = el("div", { class: "lab-says" });
    this.filters = el("div", { class: "lab-filters" });
    this.unruled = el("div", { class: "lab-filters" });
    this.more = el("details", { class: "lab-more" }, el("summary", {}, "Filters without a rule"), this.unruled);
    this.flips = el("section", { class: "lab-flips", "aria-label": "What would change" });
    this.scatter = new Scatter((polygon) => this.select(polygon));
    this.panel = el("div", { class: "w-empty", hidden: true });
    this.notice = el("div", { class: "w-banner bad", role: "alert", hidden: true });
    this.dialog = this.buildDialog();
    this.body = el(
      "div",
      { class: "lab-body" },
      el("div", { class: "lab-main" }, this.filters, this.more),
      el("aside", { class: "lab-side" }, this.flips, this.buildPlane()),
    );
    this.work = el("div", { class: "lab-work" }, this.strip, this.says, this.body);
    this.root = el("section", { class: "lab w", "aria-label": "Threshold lab", "data-state": "loading" }, this.buildBar(), this.notice, this.panel, this.work, this.dialog);
    place.replaceChildren(this.root);
  }

  buildBar() {
    const chosen = PLACE.map((name) => this.buildSelect(name, LABELS[name], () => this.choose(name)));
    const policy = this.buildSelect("policy", "Policy", () => this.load(Number(this.selects.policy.value)));
    this.reset = button("Back", () => this.load(this.base.id), { title: "Back to the policy as it is saved" });
    this.save = button("Save as policy…", () => this.openDialog(), { class: "act main" });
    return el("header", { class: "lab-bar" }, chosen, policy, el("div", { class: "acts" }, this.reset, this.save));
  }

  buildSelect(name, label, onchange) {
    this.selects[name] = el("select", { "aria-label": label, onchange });
    return el("label", {}, el("span", {}, label), this.selects[name]);
  }

  buildPlane() {
    const axes = ["x", "y"].map((axis) => this.buildSelect(axis, axis === "x" ? "Across" : "Upwards", () => this.plot()));
    this.found = el("p", { class: "lab-found", role: "status" });
    this.planeNote = el("p", { class: "w-quiet" });
    const names = ["across from", "to", "upwards from", "to"];
    this.frame = names.map((name) => el("input", { type: "number", step: "any", "aria-label": name, required: true }));
    const fields = names.map((name, i) => el("label", {}, `${name} `, this.frame[i]));
    const form = el("form", { onsubmit: (event) => this.frameChosen(event) }, fields, el("button", { type: "submit", class: "act" }, "Select"));
    return el(
      "section",
      { class: "lab-plane", "aria-label": "Two filters" },
      el("h2", {}, "Two filters, and a lasso"),
      el("div", { class: "axes" }, axes),
      this.scatter.root,
      legend(["accepted", "rejected", "unseen"]),
      this.planeNote,
      this.found,
      el("details", {}, el("summary", {}, "Select by numbers"), form),
    );
  }

  buildDialog() {
    this.name = el("input", { type: "text", maxlength: "80", required: true, autocomplete: "off" });
    this.given = el("div", { class: "given" });
    const form = el(
      "form",
      { onsubmit: (event) => this.savePolicy(event) },
      el("label", {}, el("span", {}, "Name"), this.name),
      el("p", { class: "w-quiet" }, "A name that is there already gets its next version; the earlier ones stay."),
      this.given,
      el("div", { class: "acts" }, button("Cancel", () => this.dialog.close()), el("button", { type: "submit", class: "act main" }, "Save")),
    );
    return el("dialog", { "aria-label": "Save as policy" }, el("h2", {}, "Save as policy"), form);
  }

  // Choosing what to look at

  async start() {
    const address = new URLSearchParams(location.search);
    this.place = Object.fromEntries(PLACE.map((name) => [name, address.get(name)]));
    await this.open();
  }

  async open() {
    this.root.dataset.state = "loading";
    await this.tell(async () => {
      this.setup = await get("/api/lab/setup", { dataset: this.place.dataset });
      this.place.dataset = this.setup.dataset;
      this.forgetUnknown();
      this.base = this.policyOf(Number(this.place.run));
      this.rules = null;
      if (this.missing()) return;
      this.recall();
      this.offer();
      await this.look();
    });
  }

  // What the address names and the data set does not have is left out.
  forgetUnknown() {
    for (const [name, known] of [["run", this.setup.runs], ["kind", this.setup.kinds], ["category", this.setup.categories]]) {
      if (!known.some((one) => String(one.value) === this.place[name])) this.place[name] = null;
    }
  }

  missing() {
    const { dataset, candidates, filters } = this.setup;
    const link = (page, text) => el("a", { href: this.links[page] }, text);
    const found =
      dataset === null ? ["No data set yet", ["Import one, or load the demo, on ", link("datasets", "Datasets"), "."]]
      : !candidates ? ["Nothing to judge yet", ["Choose a recipe on ", link("generate", "Generate"), "; its candidates are measured as they are made."]]
      : !filters.some((filter) => filter.scored) ? ["No scores yet", ["The candidates are there, but no filter has measured them. See how far the run is on ", link("jobs", "Jobs"), "."]]
      : null;
    if (!found) return false;
    this.offer();
    this.reset.disabled = this.save.disabled = true;
    this.panel.replaceChildren(el("h2", {}, found[0]), el("p", {}, found[1]));
    this.root.dataset.state = "empty";
    this.panel.hidden = false;
    return true;
  }

  offer() {
    const all = (title) => ({ value: "", title });
    fill(this.selects.dataset, this.setup.datasets, this.place.dataset);
    fill(this.selects.run, [all("All runs"), ...this.setup.runs], this.place.run);
    fill(this.selects.kind, [all("All kinds"), ...this.setup.kinds], this.place.kind);
    fill(this.selects.category, [all("All classes"), ...this.setup.categories], this.place.category);
    const policies = this.setup.policies.map((policy) => ({ value: policy.id, title: `${policy.name} v${policy.version}${policy.runs.length ? "" : " (not in use)"}` }));
    fill(this.selects.policy, this.base ? policies : [all("None yet"), ...policies], this.base?.id ?? "");
  }

  choose(name) {
    this.place[name] = this.selects[name].value || null;
    if (name === "dataset") Object.assign(this.place, { run: null, kind: null, category: null });
    const given = Object.entries(this.place).filter(([, value]) => value);
    history.replaceState(null, "", `${location.pathname}?${new URLSearchParams(given)}`);
    if (name === "dataset") return this.open();
    if (name === "run" && equal(this.rules, this.base?.rules ?? [])) this.base = this.policyOf(Number(this.place.run));
    if (name === "run") this.rules = this.base?.rules ?? this.rules;
    this.offer();
    return this.tell(() => this.look());
  }

  // The policy of a run, or that of the latest run that has one.
  policyOf(run) {
    const used = this.setup.runs.filter((one) => one.policy !== null);
    const policy = used.find((one) => one.value === run)?.policy ?? used[0]?.policy ?? null;
    return this.setup.policies.find((one) => one.id === policy) ?? null;
  }

  // Thresholds somebody was trying here before; they go with the page, not with the policy.
  recall() {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
    const base = this.setup.policies.find((policy) => policy.id === kept?.base);
    if (kept?.dataset === this.place.dataset && base) Object.assign(this, { base, rules: kept.rules });
    this.rules ??= this.base?.rules ?? [];
  }

  keep() {
    sessionStorage.setItem(KEPT, JSON.stringify({ dataset: this.place.dataset, base: this.base?.id ?? null, rules: this.rules }));
  }

  load(id) {
    const policy = this.setup.policies.find((one) => one.id === id);
    if (!policy) return;
    this.base = policy;
    this.offer();
    this.change(policy.rules);
  }

  where() {
    const { dataset, run, kind, category } = this.place;
    return { dataset: Number(dataset), run: run && Number(run), kind: kind || null, category: category && Number(category) };
  }

  get category() {
    return this.setup.categories.find((one) => String(one.value) === this.place.category)?.name ?? null;
  }

  titleOf(filter) {
    return this.setup.filters.find((one) => one.name === filter)?.title ?? filter;
  }

  // Showing

  async look() {
    const answer = await send("/api/lab/histograms", this.where());
    this.histograms = new Map(answer.histograms.map((one) => [one.filter, one]));
    this.root.dataset.state = "ready";
    this.panel.hidden = true;
    this.drawCharts();
    this.offerAxes();
    await Promise.all([this.ask(), this.plot()]);
  }

  drawCharts() {
    const shown = inForce(this.rules, this.place.kind, this.category);
    const ruled = new Set(shown.map(({ rule }) => rule.filter));
    const free = [...this.histograms.keys()].filter((filter) => !ruled.has(filter));
    this.cards = shown.map(({ rule }) => this.card(rule.filter, rule));
    this.filters.replaceChildren(...(this.cards.length ? this.cards.map((card) => card.root) : [el("p", { class: "w-quiet" }, "No rule yet: choose a filter below and say what passes.")]));
    this.unruled.replaceChildren(...free.map((filter) => this.card(filter, null).root));
    this.more.hidden = !free.length;
    if (!shown.length) this.more.open = true;
    this.drawSentence();
  }

  card(filter, rule) {
    const known = this.setup.filters.find((one) => one.name === filter);
    const histogram = this.histograms.get(filter);
    const card = { filter, rule };
    card.chart = new Chart(this.titleOf(filter), (bound, value) => this.move(card, bound, value));
    card.inputs = Object.fromEntries(BOUNDS.map((bound) => [bound, this.boundField(card, bound)]));
    card.marks = el("span", { class: "marks" });
    const head = el("header", {}, el("h3", { title: known?.help ?? "" }, this.titleOf(filter)), card.marks, rule ? this.ruleActs(card) : null);
    const range = el("div", { class: "range" }, "passes from ", card.inputs.at_least, " to ", card.inputs.at_most, el("span", { class: "w-quiet" }, missingText(histogram)));
    const help = el("p", { class: "help", title: known?.help ?? "" }, known?.help ?? "");
    const note = histogram?.note ? el("p", { class: "note" }, histogram.note) : null;
    card.root = el("article", { class: "lab-card", "data-filter": filter }, head, help, histogram ? card.chart.root : el("p", { class: "nothing" }, "No candidate here has a value."), range, note);
    if (histogram) card.chart.draw(histogram, rule);
    this.fillMarks(card);
    this.fillFields(card);
    return card;
  }

  // Of which kinds and classes the rule speaks, when not of all.
  fillMarks({ marks, rule }) {
    const kinds = this.setup.kinds.filter((kind) => rule?.kinds.includes(kind.value)).map((kind) => kind.title);
    const classes = rule?.classes.length ? [`only ${rule.classes.join(", ")}`] : [];
    marks.replaceChildren(...[...kinds, ...classes].map((text) => el("span", { class: "mark" }, text)));
  }

  boundField(card, bound) {
    const label = `${this.titleOf(card.filter)}, ${bound === "at_least" ? "at least" : "at most"}`;
    const field = el("input", { type: "number", step: "any", placeholder: "any", "aria-label": label });
    field.addEventListener("change", () => this.move(card, bound, field.value === "" ? null : Number(field.value)));
    return field;
  }

  ruleActs(card) {
    const options = GROUPS.map((group) => ({ value: group, title: group ? `one of ${group}` : "must pass" }));
    if (!GROUPS.includes(card.rule.group)) options.push({ value: card.rule.group, title: `one of ${card.rule.group}` });
    const group = el("select", { "aria-label": `${this.titleOf(card.filter)}: must pass, or one of a group` });
    fill(group, options, card.rule.group);
    group.addEventListener("change", () => this.change(grouped(this.rules, card.rule, group.value)));
    const remove = button("×", () => this.change(without(this.rules, card.rule)), { class: "remove", "aria-label": `Take the rule on ${this.titleOf(card.filter)} away`, title: "Take this rule away" });
    return el("span", { class: "acts" }, group, remove);
  }

  fillFields(card) {
    for (const bound of BOUNDS) {
      const value = card.rule?.[bound] ?? null;
      card.inputs[bound].value = value === null ? "" : number(value);
    }
  }

  drawSentence() {
    const { general, special } = sentence(this.rules, (filter) => this.titleOf(filter));
    const drop = (rule) => button("×", () => this.change(without(this.rules, rule)), { class: "remove", "aria-label": "Take this exception away" });
    const exceptions = special.map(({ rule, text }) => el("span", { class: "mark" }, text, drop(rule)));
    const scope = this.category ? el("p", { class: "scope" }, `A threshold moved now holds for ${this.category} only.`) : null;
    this.says.replaceChildren(el("p", {}, el("b", {}, "Accept when "), general || "… there is no rule yet, so all is pending"), ...exceptions, scope ?? "");
    const touched = !equal(this.rules, this.base?.rules ?? []);
    this.reset.disabled = !touched || !this.base;
    this.save.disabled = !this.rules.length;
    this.root.dataset.touched = touched;
  }

  // Changing

  move(card, bound, value) {
    const rules = this.rules;
    if (!card.rule) {
      const fresh = { filter: card.filter, at_least: null, at_most: null, kinds: [], group: "", classes: this.category ? [this.category] : [], [bound]: value };
      return value === null ? undefined : this.change([...rules, fresh]);
    }
    const next = moved(rules, card.rule, bound, value, this.category);
    const rule = next.length === rules.length ? next[rules.indexOf(card.rule)] : next.at(-1); // the class's own
    const other = bound === "at_least" ? "at_most" : "at_least";
    if (value !== null && rule[other] !== null && (bound === "at_least" ? value > rule[other] : value < rule[other])) {
      this.say(`${this.titleOf(card.filter)}: nothing lies between ${rule.at_least} and ${rule.at_most}.`);
      return this.fillFields(card);
    }
    card.rule = rule;
    this.rules = next;
    if (this.histograms.has(card.filter)) card.chart.place(rule);
    this.fillMarks(card);
    this.fillFields(card);
    this.changed();
  }

  // Another list of rules: the cards are drawn anew, and whoever was on a handle stays on it.
  change(rules) {
    const at = document.activeElement;
    const label = this.body.contains(at) ? at.getAttribute("aria-label") : null;
    this.rules = rules;
    this.drawCharts();
    if (label) this.body.querySelector(`[aria-label="${CSS.escape(label)}"]:not([hidden])`)?.focus({ preventScroll: true });
    this.changed();
  }

  changed() {
    this.keep();
    this.drawSentence();
    this.scatter.points && this.scatter.place(this.axisRules());
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tell(() => this.ask()), CALM);
  }

  // Counts, flips and agreement; an earlier question is not waited for.
  async ask() {
    this.asking?.abort();
    this.asking = new AbortController();
    const question = { ...this.where(), before: this.base?.rules ?? [], after: this.rules };
    const answer = await send("/api/lab/ask", question, this.asking.signal);
    this.answer = answer;
    this.drawStrip(answer);
    this.drawFlips(answer);
    this.answered += 1;
    this.root.dataset.answered = this.answered;
  }

  drawStrip({ before, after, agreement }) {
    const counts = STATES.map((state) => figure(after[state].toLocaleString(), WORDS[state], change(after[state] - before[state]), state));
    const measured = Object.entries(MEASURES).map(([key, title]) => measure(title, agreement[key]));
    const judged = agreement.tp + agreement.fp + agreement.fn + agreement.tn;
    const told = judged ? `against ${judged.toLocaleString()} verdicts` : "nobody has decided here yet: give some verdicts on Review";
    this.strip.replaceChildren(el("div", { class: "figures" }, counts), el("div", { class: "figures measured" }, judged ? measured : null, el("span", { class: "w-quiet" }, told)));
  }

  drawFlips({ flips }) {
    const name = this.base ? `${this.base.name} v${this.base.version}` : "no policy";
    const some = STATES.filter((state) => flips[state].count);
    const nothing = el("p", { class: "w-quiet" }, `Nothing, against ${name}. Move a threshold: what changes sides is shown here.`);
    this.flips.replaceChildren(el("h2", {}, some.length ? `What would change against ${name}` : "What would change"), ...(some.length ? some.map((state) => this.flip(state, flips[state])) : [nothing]));
  }

  flip(state, { count, cards }) {
    const open = button(`Review ${count === 1 ? "it" : `all ${count.toLocaleString()}`}`, () => this.review("/api/lab/flipped", { before: this.base?.rules ?? [], after: this.rules, to: state }));
    const figures = cards.map((card) => button(example(card), () => this.review("/api/lab/these", { ids: [card.id] }), { class: "example", title: `${card.text} (candidate ${card.id})`, "aria-label": `Candidate ${card.id}: ${card.text}. Open in Review` }));
    return el("div", { class: `flip ${state}` }, el("header", {}, el("b", {}, count.toLocaleString()), ` would be ${WORDS[state]}`, open), el("div", { class: "examples" }, figures));
  }

  // Two filters

  offerAxes() {
    const known = [...this.histograms.keys()];
    const first = [...new Set([...this.cards.map((card) => card.filter), ...known])].filter((filter) => this.histograms.has(filter));
    const options = known.map((filter) => ({ value: filter, title: this.titleOf(filter) }));
    for (const [i, axis] of ["x", "y"].entries()) {
      const kept = this.selects[axis].value;
      fill(this.selects[axis], options, known.includes(kept) ? kept : (first[i] ?? first[0]));
    }
  }

  get axes() {
    return ["x", "y"].map((axis) => this.selects[axis].value);
  }

  axisRules() {
    const shown = inForce(this.rules, this.place.kind, this.category);
    return this.axes.map((filter) => shown.find(({ rule }) => rule.filter === filter)?.rule ?? null);
  }

  plot() {
    const [x, y] = this.axes;
    if (!x || !y) return undefined;
    return this.tell(async () => {
      const points = await send("/api/lab/scatter", { ...this.where(), x, y });
      this.found.replaceChildren("Draw round what you want to see.");
      this.planeNote.textContent = points.note;
      this.scatter.draw(points, [x, y].map((filter) => this.titleOf(filter)), this.axisRules());
      this.root.dataset.points = points.x.length;
    });
  }

  frameChosen(event) {
    event.preventDefault();
    const [left, right, low, high] = this.frame.map((field) => Number(field.value));
    if (this.scatter.points) this.scatter.frame([left, right], [low, high]);
  }

  select(polygon) {
    const [x, y] = this.axes;
    return this.tell(async () => {
      const { count, selection } = await send("/api/lab/inside", { ...this.where(), x, y, polygon });
      const link = el("a", { class: "act", href: this.address(selection) }, `Open these ${count.toLocaleString()} in Review`);
      this.found.replaceChildren(count ? link : "Nothing lies inside.");
    });
  }

  address(selection) {
    return `${this.links.review}?${new URLSearchParams({ dataset: this.place.dataset, selection, human: "any" })}`;
  }

  review(route, question) {
    return this.tell(async () => {
      const { selection } = await send(route, { ...this.where(), ...question });
      location.assign(this.address(selection));
    });
  }

  // Saving

  openDialog() {
    this.name.value = this.base?.name ?? "";
    const runs = this.setup.runs.filter((run) => !this.place.run || String(run.value) === this.place.run);
    const choices = [["", "no run yet"], ...(runs.length ? [["runs", runs.length === 1 ? `run ${runs[0].title}` : `all ${runs.length} runs of this data set`]] : [])];
    this.given.replaceChildren(
      el("span", {}, "Use it from now on for"),
      ...choices.map(([value, title]) => el("label", { class: "choice" }, el("input", { type: "radio", name: "given", value, checked: value === choices.at(-1)[0] }), title)),
    );
    this.dialog.showModal();
    this.name.select();
  }

  savePolicy(event) {
    event.preventDefault();
    const given = this.given.querySelector("input:checked")?.value === "runs";
    const runs = given ? this.setup.runs.filter((run) => !this.place.run || String(run.value) === this.place.run).map((run) => run.value) : [];
    this.dialog.close();
    return this.tell(async () => {
      const saved = await send("/api/lab/policies", { dataset: Number(this.place.dataset), name: this.name.value.trim(), rules: this.rules, runs });
      this.setup = await get("/api/lab/setup", { dataset: this.place.dataset });
      this.base = this.setup.policies.find((policy) => policy.id === saved.id);
      this.rules = this.base.rules;
      this.keep();
      this.offer();
      this.drawCharts();
      this.root.dataset.saved = `${saved.name} v${saved.version}`;
      await this.ask();
      this.say(`Saved as ${saved.name} v${saved.version}${runs.length ? `, in use for ${runs.length} ${runs.length === 1 ? "run" : "runs"}` : ""}.`, true);
    });
  }

  // Telling

  async tell(act) {
    try {
      await act();
    } catch (error) {
      if (error.name !== "AbortError") this.say(error.message);
      else return;
      if (this.root.dataset.state === "loading") this.root.dataset.state = "failed";
    }
  }

  say(text, good = false) {
    this.notice.className = `w-banner ${good ? "good" : "bad"}`;
    this.notice.textContent = text;
    this.notice.hidden = false;
    clearTimeout(this.saying);
    this.saying = setTimeout(() => (this.notice.hidden = true), 9000);
  }
}

// Pieces

function button(content, onclick, attributes = {}) {
  return el("button", { type: "button", class: "act", ...attributes, onclick }, content);
}

function fill(select, options, value) {
  select.replaceChildren(...options.map((option) => el("option", { value: option.value }, option.title)));
  select.value = String(value ?? "");
}

function figure(value, name, beside, kind) {
  return el("div", { class: kind }, el("b", {}, value, beside), el("span", {}, name));
}

function change(difference) {
  const text = difference ? `${difference > 0 ? "+" : "−"}${Math.abs(difference).toLocaleString()}` : "";
  return el("i", {}, text);
}

function measure(title, found) {
  if (!found) return figure("–", title, null, "");
  const [value, low, high] = found.map((share) => (100 * share).toFixed(1));
  return figure(`${value} %`, `${title}, ${low} to ${high}`, null, "");
}

function missingText(histogram) {
  return histogram?.missing ? `${histogram.missing.toLocaleString()} without a value` : "";
}

function legend(names) {
  return el("p", { class: "legend", "aria-hidden": "true" }, names.map((name) => el("span", { class: name }, el("i", {}), name)));
}

// The picture round the box, or all of it.
function example({ thumb, size, xyxy }) {
  if (!thumb) return el("span", { class: "blank" }, "no image");
  const [x1, y1, x2, y2] = xyxy ?? [0, 0, ...size];
  const side = xyxy ? Math.min(1.6 * Math.max(x2 - x1, y2 - y1), Math.max(...size)) : Math.max(...size);
  const view = `${(x1 + x2 - side) / 2} ${(y1 + y2 - side) / 2} ${side} ${side}`;
  const box = xyxy ? svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1 }) : null;
  return svg("svg", { viewBox: view, "aria-hidden": "true" }, svg("image", { href: `${thumb}?size=320`, width: size[0], height: size[1] }), box);
}

// Posts a question as JSON and gives the answer; a refusal is an error with the server's words.
async function send(address, question, signal = undefined) {
  const headers = { "Content-Type": "application/json", "X-Winnow": "1" };
  const answer = await fetch(address, { method: "POST", headers, body: JSON.stringify(question), signal });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
  return body;
}
