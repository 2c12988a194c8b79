// The review card: one candidate at a time, decided by a key, shown before the server has heard of it.

import { el } from "../dom.js";
import { listen } from "../keys.js";
import { Deck, get, thumb } from "./deck.js";
import { WORDS, evidence, frames, texts } from "./face.js";
import { Outbox, opId, send } from "./outbox.js";

const MODES = ["side by side", "flicker", "single"];
const RECENT = 6;
const RATE_WINDOW = 60_000;
const LOOK_AGAIN = 3000; // ms between looks for new candidates at the end of the queue
const NAME = "winnow.reviewer";
const KEYS_OFF = "winnow.keys-off";

const SHOWN = [
  ["undecided", "Undecided"],
  ["accept", "Accepted"],
  ["reject", "Rejected"],
  ["skip", "Skipped"],
  ["any", "All"],
];

const HELP = [
  ["a", "accept"],
  ["x", "reject"],
  ["1 – 6", "reject, and say why"],
  ["space", "skip"],
  ["u  or  Ctrl+Z", "take back the last verdict"],
  ["y  or  Ctrl+Shift+Z", "give it again"],
  ["←  →", "look around without deciding"],
  ["n", "next undecided"],
  ["g", "make it again: another seed, or in your own words"],
  ["b (hold)", "the image before, in place of the one after"],
  ["m", "side by side, flicker, single"],
  ["h", "boxes on and off"],
  ["?", "this help"],
];

// Builds the card in `element`. `links` are the addresses of the pages that empty states point to.
export function mount(element, { links }) {
  const place = element.querySelector(".review-place") ?? element;
  if (place.childElementCount) return; // drawn already
  const review = new Review(place, links);
  review.start();
}

class Review {
  constructor(place, links) {
    this.links = links;
    this.mode = 0;
    this.boxes = true;
    this.mine = []; // own standing verdicts, oldest first: what undo takes back
    this.redoable = [];
    this.times = [];
    this.tally = {};
    this.reasons = [];
    this.reviewer = localStorage.getItem(NAME) ?? "local";
    this.build(place);
    this.outbox = new Outbox({
      changed: (state) => this.showSaving(state),
      refused: (message) => this.say(message, true),
    });
    listen(this.root, {
      commands: this.commands(),
      releases: { b: () => this.peek(false) },
      held: ["left", "right"],
      active: () => !this.help.open && !this.again.open && localStorage.getItem(KEYS_OFF) === null,
    });
    addEventListener("blur", () => this.peek(false));
    addEventListener("beforeunload", (event) => this.outbox.unsaved && (this.failing || !this.durable) && event.preventDefault());
    addEventListener("resize", () => this.fit());
  }

  commands() {
    const reasons = Object.fromEntries([..."123456789"].map((digit) => [digit, () => this.rejectFor(Number(digit) - 1)]));
    return {
      a: () => this.decide("accept"),
      x: () => this.decide("reject"),
      space: () => this.decide("skip"),
      ...reasons,
      u: () => this.undo(),
      "ctrl+z": () => this.undo(),
      y: () => this.redo(),
      "ctrl+shift+z": () => this.redo(),
      left: () => this.look(-1),
      right: () => this.look(1),
      n: () => this.toOpen(),
      b: () => this.peek(true),
      m: () => this.nextMode(),
      h: () => this.toggleBoxes(),
      g: () => this.askAgain(),
      "?": () => this.openHelp(),
    };
  }

  // Building, once

  build(place) {
    this.selects = {};
    this.saving = el("span", { class: "saving", role: "status" });
    this.progress = el("div", { class: "progress" });
    this.frames = el("div", { class: "frames" });
    this.words = el("div", { class: "words" });
    this.question = el("p", { class: "question" });
    this.side = el("aside", { class: "evidence", "aria-label": "Evidence" });
    this.recent = el("ol", { class: "recent", "aria-label": "Latest verdicts" });
    this.live = el("div", { class: "unseen", "aria-live": "polite" });
    this.notice = el("div", { class: "notice", role: "alert", hidden: true });
    this.why = el("div", { class: "why", role: "group", "aria-label": "Reject because" });
    this.panel = el("div", { class: "panel" });
    this.help = this.buildHelp();
    this.again = this.buildAgain();
    const stage = el("div", { class: "stage" }, this.question, this.frames, this.words, this.buildActs(), this.why);
    this.side.append(el("div", { class: "facts" }), this.recent);
    this.root = el(
      "section",
      { class: "review", "aria-label": "Review", tabindex: "-1", "data-state": "loading" },
      el("h1", { class: "unseen" }, "Review"),
      this.buildBar(),
      el("div", { class: "body" }, stage, this.side),
      this.panel,
      this.notice,
      this.live,
      this.help,
      this.again,
    );
    place.replaceChildren(this.root);
    place.closest(".gradio-container")?.classList.add("reviewing"); // the page gives up its margins
    this.fit();
  }

  buildBar() {
    const labels = { dataset: "Data set", run: "Run", kind: "Kind", order: "Order", human: "Show" };
    const chosen = Object.entries(labels).map(([name, label]) => {
      this.selects[name] = el("select", { "aria-label": label, onchange: () => this.choose(name) });
      return el("label", {}, el("span", {}, label), this.selects[name]);
    });
    const help = el("button", { type: "button", class: "round", "aria-label": "Keys and settings", title: "Keys and settings (?)", onclick: () => this.openHelp() }, "?");
    return el("header", { class: "queue" }, chosen, this.progress, this.saving, help);
  }

  buildActs() {
    const act = (name, label, key, run) =>
      el("button", { type: "button", class: `act ${name}`, onclick: (event) => this.pressed(event, run) }, el("span", {}, label), el("kbd", {}, key));
    return el(
      "div",
      { class: "acts", role: "group", "aria-label": "Verdict" },
      act("undo", "Undo", "u", () => this.undo()),
      act("reject", "Reject", "x", () => this.decide("reject")),
      act("skip", "Skip", "space", () => this.decide("skip")),
      act("accept", "Accept", "a", () => this.decide("accept")),
    );
  }

  buildHelp() {
    const rows = HELP.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]);
    const name = el("input", { type: "text", maxlength: "80", value: this.reviewer, onchange: () => this.rename(name.value) });
    const keys = el("input", { type: "checkbox", onchange: () => switchKeys(keys.checked) });
    keys.checked = localStorage.getItem(KEYS_OFF) === null;
    const close = el("button", { type: "button", class: "act", autofocus: true, onclick: () => this.help.close() }, "Close", el("kbd", {}, "Esc"));
    const settings = el("div", { class: "settings" }, el("label", {}, "Your name in the record ", name), el("label", {}, keys, " Decide with single keys"));
    return el("dialog", { class: "help", "aria-label": "Keys and settings", onclose: () => this.root.focus() }, el("h2", {}, "Keys"), el("dl", {}, rows), settings, close);
  }

  // Another attempt at the candidate shown, by a worker in the background.
  buildAgain() {
    const words = el("input", { type: "text", maxlength: "300", placeholder: "as before", "aria-label": "In your own words" });
    const amount = el("input", { type: "number", min: "1", max: "16", value: "1", "aria-label": "How many" });
    const send = (event) => {
      event.preventDefault();
      this.again.close();
      this.makeAgain(words.value, Number(amount.value) || 1);
      words.value = "";
    };
    const close = el("button", { type: "button", class: "act", onclick: () => this.again.close() }, "Cancel", el("kbd", {}, "Esc"));
    const settings = el("div", { class: "settings" }, el("label", {}, "In your own words ", words), el("label", {}, "How many ", amount));
    const form = el("form", { onsubmit: send }, settings, el("div", { class: "acts" }, close, el("button", { type: "submit", class: "act accept" }, "Make it again", el("kbd", {}, "Enter"))));
    const hint = el("p", {}, "With another seed, as a new variant of the same target. Why earlier ones were rejected is told to the models.");
    return el("dialog", { class: "ask", "aria-label": "Make it again", onclose: () => this.root.focus() }, el("h2", {}, "Make it again"), hint, form);
  }

  askAgain() {
    if (this.deck?.current && this.root.dataset.state === "ready") this.again.showModal();
  }

  async makeAgain(wording, amount) {
    const candidate = this.deck.current.card.id;
    try {
      const run = await send("/api/again", { candidate, wording: wording || null, amount });
      this.say(`Run ${run.id} makes candidate ${candidate} again; the result comes at the end of the queue.`, true);
    } catch (error) {
      this.say(`Candidate ${candidate} cannot be made again: ${error.message}`, true);
    }
  }

  // A button pressed by mouse must not keep the focus: space would press it again instead of skipping.
  pressed(event, run) {
    if (event.detail > 0) event.currentTarget.blur();
    run();
  }

  fit() {
    this.root.style.setProperty("--top", `${Math.round(this.root.getBoundingClientRect().top + scrollY)}px`);
  }

  // Choosing a queue

  async start() {
    const address = new URLSearchParams(location.search);
    this.query = { dataset: address.get("dataset"), run: address.get("run"), kind: address.get("kind"), order: address.get("order") ?? "oldest", human: address.get("human") ?? "undecided", selection: address.get("selection"), audit: address.get("audit") };
    if (this.outbox.unsaved) await this.outbox.flush();
    await this.open();
  }

  async open() {
    this.root.dataset.state = "loading";
    delete this.root.dataset.shown;
    try {
      const setup = await get("/api/review/setup", { dataset: this.query.dataset });
      this.query.dataset = setup.dataset;
      this.offer(setup);
      if (setup.dataset === null) return this.showPanel("nothing");
      await this.load();
    } catch (error) {
      this.showProblem(error, () => this.open());
    }
  }

  async load() {
    this.deck = new Deck({ ...this.query, reviewer: this.reviewer }, this.query.human === "undecided" ? this.outbox.waiting.map((one) => one.candidate_id) : []);
    const scope = { dataset: this.query.dataset, reviewer: this.reviewer };
    const [history] = await Promise.all([get("/api/review/history", scope), this.deck.fill(), this.count()]);
    this.mine = history.reverse().map((one) => ({ ...one, id: one.card.id, thumb: thumb(one.card) }));
    this.redoable = [];
    this.show();
  }

  offer(setup) {
    this.reasons = setup.reasons;
    this.why.replaceChildren(
      el("span", {}, "because"),
      ...setup.reasons.map((reason, i) =>
        el("button", { type: "button", onclick: (event) => this.pressed(event, () => this.rejectFor(i)) }, el("kbd", {}, i + 1), reason),
      ),
    );
    const all = (title) => ({ value: "", title });
    fillSelect(this.selects.dataset, setup.datasets, this.query.dataset);
    fillSelect(this.selects.run, [all("All runs"), ...setup.runs], this.query.run);
    fillSelect(this.selects.kind, [all("All kinds"), ...setup.kinds], this.query.kind);
    fillSelect(this.selects.order, setup.orders, this.query.order);
    fillSelect(this.selects.human, SHOWN.map(([value, title]) => ({ value, title })), this.query.human);
  }

  choose(name) {
    this.query[name] = this.selects[name].value;
    if (name === "dataset") Object.assign(this.query, { run: null, kind: null, order: "oldest", selection: null, audit: null });
    const given = Object.entries(this.query).filter(([, value]) => value);
    history.replaceState(null, "", `?${new URLSearchParams(given)}`);
    this.selects[name].blur();
    return this.open();
  }

  async rename(name) {
    this.reviewer = name.trim() || "local";
    localStorage.setItem(NAME, this.reviewer);
    await this.open();
  }

  // Deciding

  rejectFor(index) {
    if (index < this.reasons.length) this.decide("reject", this.reasons[index]);
  }

  decide(decision, reason = null) {
    const item = this.deck?.current;
    if (!item || this.root.dataset.state !== "ready") return;
    this.redoable = [];
    this.give(item, decision, reason);
    this.deck.advance();
    this.show();
  }

  give(item, decision, reason) {
    const op = { op_id: opId(), id: item.card.id, decision, reason, card: item.card, thumb: thumb(item.card), before: item.human };
    this.send({ op_id: op.op_id, candidate_id: op.id, decision, reviewer: this.reviewer, ...(reason ? { reason } : {}) });
    this.mine.push(op);
    this.times.push(performance.now());
    this.change(item, decision);
    this.say(`${WORDS[decision]}${reason ? `, ${reason}` : ""}, candidate ${op.id}`);
  }

  undo() {
    const op = this.deck && this.mine.pop();
    if (!op) return this.say("Nothing to take back.");
    const item = this.deck.goTo(op.card, op.decision);
    this.send({ op_id: opId(), candidate_id: op.id, decision: "undo", reviewer: this.reviewer, undoes: op.op_id });
    this.change(item, op.before ?? this.mine.findLast((other) => other.id === op.id)?.decision ?? null);
    this.redoable.push(op);
    this.times.pop();
    this.say(`Took back: ${WORDS[op.decision]}, candidate ${op.id}`);
    this.show();
  }

  redo() {
    const op = this.redoable.pop();
    if (!op) return this.say("Nothing to give again.");
    this.give(this.deck.goTo(op.card, null), op.decision, op.reason);
    this.deck.advance();
    this.show();
  }

  send(verdict) {
    this.outbox.push(verdict);
  }

  change(item, human) {
    const key = (value) => value ?? "undecided";
    this.tally[key(item.human)] = (this.tally[key(item.human)] ?? 1) - 1;
    this.tally[key(human)] = (this.tally[key(human)] ?? 0) + 1;
    item.human = human;
    item.touched = human !== null;
  }

  async readOn() {
    if (this.deck.ended) return;
    const deck = this.deck;
    try {
      await deck.fill();
      if (!this.outbox.unsaved) await this.count();
    } catch (error) {
      this.say(`Cannot read on: ${error.message}. Trying again.`, true);
      setTimeout(() => deck === this.deck && this.readOn(), LOOK_AGAIN);
    }
    if (deck === this.deck && this.root.dataset.state !== "ready") this.show();
  }

  async count() {
    const counted = await get("/api/review/counts", { ...this.query, order: null });
    if (!this.outbox?.unsaved) this.tally = counted.human;
    else if (!Object.keys(this.tally).length) this.tally = counted.human;
    this.showProgress();
  }

  // Looking around

  look(step) {
    if (!this.deck?.look(step)) return this.say(step < 0 ? "This is the first one." : "This is the last one at hand.");
    this.show();
  }

  toOpen() {
    if (!this.deck) return;
    this.deck.advance();
    this.show();
  }

  peek(on) {
    this.frames.classList.toggle("peeking", on);
  }

  nextMode() {
    this.mode = (this.mode + 1) % MODES.length;
    this.frames.dataset.mode = MODES[this.mode];
    this.say(`View: ${MODES[this.mode]}`);
  }

  toggleBoxes() {
    this.boxes = !this.boxes;
    this.frames.classList.toggle("bare", !this.boxes);
    this.say(this.boxes ? "Boxes on" : "Boxes off");
  }

  openHelp() {
    this.help.showModal();
  }

  // Drawing

  show() {
    const item = this.deck.current;
    afterPaint(() => this.showRest());
    if (!item) return this.deck.ended ? this.showEnd() : void (this.root.dataset.state = "loading");
    const pictures = this.deck.pictured(item.card);
    this.draw(item, pictures);
    pictures.ready.then(() => this.settle(item, pictures));
  }

  // What nobody waits for, kept out of the time from key to picture.
  showRest() {
    this.deck.prepare();
    this.showProgress();
    this.showRecent();
    this.readOn();
  }

  draw(item, pictures) {
    const card = item.card;
    this.frames.replaceChildren(...frames(card, pictures));
    this.frames.classList.toggle("pair", Boolean(card.after));
    this.question.replaceChildren(el("b", {}, card.title), ` ${card.question}`, stamp(item.human));
    this.words.replaceChildren(...texts(card));
    this.side.firstChild.replaceChildren(...evidence(card));
    Object.assign(this.root.dataset, { state: "ready", id: card.id, human: item.human ?? "" });
  }

  // Marks the card as painted with its own pictures; draws it again when one of them turned out broken.
  settle(item, pictures) {
    if (this.deck.current !== item) return;
    const broken = [pictures.before, pictures.after].some((image) => image?.dataset.broken);
    if (broken && !this.frames.querySelector(".broken")) this.draw(item, pictures);
    this.root.dataset.shown = item.card.id;
  }

  showProgress() {
    const count = (...names) => names.reduce((sum, name) => sum + (this.tally[name] ?? 0), 0);
    const parts = { accept: count("accept", "edit"), reject: count("reject"), skip: count("skip") };
    const total = count(...Object.keys(this.tally));
    const decided = total - count("undecided");
    const meter = el("span", { class: "meter", "aria-hidden": "true" });
    for (const [name, n] of Object.entries(parts)) {
      const part = el("i", { class: name });
      part.style.width = `${(100 * n) / Math.max(total, 1)}%`;
      meter.append(part);
    }
    const pace = this.pace(count("undecided"));
    const title = `${parts.accept} accepted, ${parts.reject} rejected, ${parts.skip} skipped`;
    this.progress.title = title;
    this.progress.replaceChildren(meter, el("b", {}, shown(decided)), ` / ${shown(total)}`, pace ? el("span", { class: "pace" }, pace) : "");
  }

  pace(left) {
    const now = performance.now();
    this.times = this.times.filter((time) => now - time < RATE_WINDOW);
    if (this.times.length < 4 || !left) return "";
    const rate = (this.times.length / Math.max(now - this.times[0], 5000)) * 60_000;
    const minutes = left / rate;
    return `${Math.round(rate)}/min · ${minutes < 1.5 ? "a minute" : minutes < 90 ? `${Math.round(minutes)} min` : `${Math.round(minutes / 60)} h`} left`;
  }

  showSaving({ unsaved, failing, problem, durable }) {
    Object.assign(this, { failing, durable });
    const state = failing ? "offline" : unsaved ? "saving" : "saved";
    const text = { offline: `${unsaved} unsaved – trying again`, saving: "Saving…", saved: "Saved" }[state];
    if (this.saving.textContent !== text) this.saving.textContent = text;
    this.saving.dataset.state = state;
    this.saving.title = failing ? `${problem}. ${durable ? "Nothing is lost: unsaved verdicts are kept in this browser." : "Keep this page open."}` : "";
    this.root.dataset.unsaved = unsaved;
  }

  showRecent() {
    const last = this.mine.slice(-RECENT).reverse();
    this.recent.replaceChildren(
      ...last.map((op) =>
        el("li", {}, el("button", { type: "button", class: op.decision, title: `${WORDS[op.decision]}${op.reason ? `: ${op.reason}` : ""}`, "aria-label": `Candidate ${op.id}, ${WORDS[op.decision]}: look again`, onclick: (event) => this.pressed(event, () => this.revisit(op)) }, op.thumb ? el("img", { src: op.thumb, alt: "" }) : op.id)),
      ),
    );
  }

  revisit(op) {
    this.deck.goTo(op.card, op.decision);
    this.show();
  }

  say(text, important = false) {
    this.live.textContent = text;
    this.notice.hidden = !important;
    this.notice.textContent = important ? text : "";
  }

  // When there is nothing to judge

  showPanel(name, ...more) {
    const link = (to, text) => el("a", { href: this.links[to], class: "act accept" }, text);
    const texts = {
      nothing: ["No data set yet", "Winnow reviews what it made from your data. Import a data set, or load the demo.", [link("datasets", "Import a data set")]],
      empty: ["No candidates yet", "Nothing has been generated for this choice. Start a recipe, and its candidates appear here as they are made.", [link("generate", "Start a recipe")]],
      done: ["All decided", "Freeze a snapshot of what was kept, and train on it.", [link("train", "Freeze and train")]],
      none: ["None here", "No candidate of this queue is in that state. Choose another one under Show.", []],
    };
    const [title, text, links] = texts[name];
    this.root.dataset.state = "panel";
    this.root.dataset.panel = name;
    delete this.root.dataset.shown;
    this.panel.replaceChildren(el("h2", {}, title), el("p", {}, text), ...more, el("div", { class: "acts" }, links));
  }

  async showEnd() {
    const total = Object.values(this.tally).reduce((sum, n) => sum + n, 0);
    if (!total) this.showPanel("empty");
    else if (this.query.human !== "undecided") this.showPanel(this.deck.items.length ? "done" : "none");
    else this.showPanel("done", this.summary());
    const deck = this.deck;
    setTimeout(() => deck === this.deck && !deck.current && this.lookAgain(), LOOK_AGAIN);
  }

  summary() {
    const rows = Object.entries(WORDS).filter(([name]) => this.tally[name]);
    return el("ul", { class: "summary" }, rows.map(([name, word]) => el("li", { class: name }, el("b", {}, shown(this.tally[name])), ` ${word}`)));
  }

  // A recipe may still be at work: new candidates come in by themselves.
  async lookAgain() {
    try {
      if (document.visibilityState === "visible") await Promise.all([this.deck.again(), this.count()]);
    } catch (error) {
      this.say(`Cannot look for new candidates: ${error.message}.`, true);
    }
    this.show();
  }

  showProblem(error, again) {
    this.root.dataset.state = "panel";
    this.root.dataset.panel = "problem";
    const button = el("button", { type: "button", class: "act accept", onclick: again }, "Try again");
    this.panel.replaceChildren(el("h2", {}, "This queue cannot be read"), el("p", {}, error.message), el("div", { class: "acts" }, button));
  }
}

function afterPaint(work) {
  requestAnimationFrame(() => setTimeout(work));
}

function fillSelect(select, options, chosen) {
  select.replaceChildren(...options.map(({ value, title }) => el("option", { value, selected: String(value) === String(chosen ?? "") }, title)));
}

function switchKeys(on) {
  if (on) localStorage.removeItem(KEYS_OFF);
  else localStorage.setItem(KEYS_OFF, "1");
}

function stamp(human) {
  return human ? el("span", { class: `stamp ${human}` }, WORDS[human]) : "";
}

function shown(number) {
  return number.toLocaleString("en");
}
