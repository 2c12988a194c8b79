// The review card: one candidate at a time, decided by a key, shown before the server has heard of it.

import { afterPaint, el } from "../dom.js";
import { forgetBrought, keepName, reviewer, settle, signedIn, toSignIn } from "../early.js";
import { listen } from "../keys.js";
import { againDialog } from "./again.js";
import { Conflicts } from "./conflicts.js";
import { corrected, redrawn, seen } from "./corrected.js";
import { Deck, get, thumb } from "./deck.js";
import { WORDS, more } from "./face.js";
import { Help, keysAreOn } from "./help.js";
import { Keymap, keyName } from "./keymap.js";
import { EDITS, Outbox, VERDICTS, opId, send } from "./outbox.js";
import { panel, trouble } from "./panels.js";
import { QueueBar } from "./queuebar.js";
import { Sheet } from "./sheet.js";
import { Stage } from "./stage.js";
import { Progress, Recent, Saving } from "./status.js";
import { Tour } from "./tour.js";

const LOOK_AGAIN = 3000; // ms between looks for new candidates at the end of the queue
const REST = 500; // ms on one card after which its siblings and verdicts are fetched
const HOLD = 40_000; // ms after which others are told again what is on the screen here; a third of what the server grants
const SIGNED_OUT = "You are signed out. Sign in again in another tab: what is unsaved waits in this browser and is sent by itself.";
const FEW = 12; // verdicts to take back at hand, below which older ones are read

let standing = null; // the one card of the page

// Shows the card in `element`, and in another one when it is called again. `links` are the addresses of the pages that empty states
// point to. Resolves when there is something to be seen.
export function mount(element, { links }) {
  standing ??= new Review(links);
  standing.enter(element.querySelector(".island") ?? element);
  return standing.seen;
}

class Review {
  constructor(links) {
    this.links = links;
    this.mine = []; // own standing verdicts and corrections, oldest first: what undo takes back
    this.redoable = [];
    this.older = null; // where the history goes on; null when all of it is in `mine`
    this.tally = {};
    this.reasons = []; // to reject what is on the screen
    this.names = new Map(); // classes by id, once the editor has read them
    this.reviewer = reviewer();
    this.keymap = new Keymap();
    this.build();
    this.openOutboxes();
  }

  enter(place) {
    settle(this.root, place);
    place.closest(".gradio-container")?.classList.add("reviewing"); // the page gives up its margins
    this.fit();
    this.seen ??= new Promise((resolve) => this.begin(resolve));
  }

  // Once; `appeared` is called when there is something to be seen.
  begin(appeared) {
    this.appeared = appeared;
    this.listen();
    addEventListener("blur", () => this.stage.peek(false));
    addEventListener("beforeunload", (event) => (this.atRisk || this.editor?.changed) && event.preventDefault());
    addEventListener("resize", () => this.fit());
    setInterval(() => document.visibilityState === "visible" && this.hold(), HOLD);
    this.start();
  }

  get busy() {
    return this.help.open || this.again.open || this.editor !== undefined;
  }

  openOutboxes() {
    const hears = {
      changed: () => this.showSaving(),
      refused: (message, item) => this.wasRefused(message, item),
      conflict: (item, answer) => this.met(item, answer),
    };
    this.outbox = new Outbox(VERDICTS, hears);
    this.corrections = new Outbox(EDITS, hears);
  }

  // Building, once

  build() {
    this.sheets = [new Sheet(), new Sheet()]; // the one on the screen, and the next one behind it
    this.stage = new Stage(this.sheets.map((sheet) => sheet.root));
    this.recent = new Recent((op) => this.revisit(op));
    this.saving = new Saving();
    this.progress = new Progress();
    this.bar = new QueueBar(() => this.open());
    this.conflicts = new Conflicts({ overrule: (item, theirs) => this.overrule(item, theirs), look: (id) => this.visit(id) });
    this.live = el("div", { class: "unseen", "aria-live": "polite" });
    this.notice = el("div", { class: "notice", role: "alert", hidden: true });
    this.why = el("div", { class: "why", role: "group", "aria-label": "Reject because" });
    this.panel = el("div", { class: "panel" });
    this.acts = el("div", { class: "acts", role: "group", "aria-label": "Verdict" });
    const back = () => this.root.focus();
    this.help = new Help(this.keymap, { reviewer: this.reviewer, changed: () => this.listen(), rename: signedIn() ? null : (name) => this.rename(name), tour: () => this.tour.start(), closed: back });
    this.again = againDialog((wording, amount) => this.makeAgain(wording, amount), back);
    const stage = el("div", { class: "stage" }, this.stage.root, this.acts, this.why);
    const about = el("div", { class: "about" }, this.sheets.map((sheet) => sheet.facts));
    const side = el("aside", { class: "evidence", "aria-label": "Evidence" }, about, this.recent.root);
    this.root = el(
      "section",
      { class: "review", "aria-label": "Review", tabindex: "-1", "data-state": "loading" },
      el("h1", { class: "unseen" }, "Review"),
      el("header", { class: "queue" }, this.bar.root, this.progress.root, this.saving.root, this.helpButton()),
      this.conflicts.root,
      el("div", { class: "body" }, stage, side),
      this.panel,
      this.notice,
      this.live,
      this.help.root,
      this.again,
    );
    this.tour = new Tour(this.root, (name) => keyName(this.keymap.of(name)));
    this.root.append(this.tour.root);
    this.buildActs();
  }

  helpButton() {
    return el("button", { type: "button", class: "round", "aria-label": "Keys and settings", title: "Keys and settings (?)", onclick: () => this.help.show() }, "?");
  }

  // Keys and buttons as they are mapped now.
  listen() {
    const digits = Object.fromEntries([..."123456789"].map((digit) => [digit, () => this.rejectFor(Number(digit) - 1)]));
    this.stopListening?.();
    this.stopListening = listen(this.root, {
      commands: { ...this.keymap.map(this.actions()), ...digits, "?": () => this.help.show() },
      releases: { [this.keymap.of("peek")]: () => this.stage.peek(false) },
      held: [this.keymap.of("back"), this.keymap.of("on")],
      active: () => !this.busy && keysAreOn(),
    });
    this.buildActs();
  }

  actions() {
    return {
      accept: () => this.decide("accept"),
      reject: () => this.decide("reject"),
      skip: () => this.decide("skip"),
      flag: () => this.decide("flag"),
      undo: () => this.undo(),
      redo: () => this.redo(),
      edit: () => this.mend(),
      back: () => this.look(-1),
      on: () => this.look(1),
      open: () => this.toOpen(),
      again: () => this.askAgain(),
      peek: () => this.stage.peek(true),
      mode: () => this.say(`View: ${this.stage.nextMode()}`),
      boxes: () => this.say(this.stage.toggleBoxes() ? "Boxes on" : "Boxes off"),
      masks: () => this.say(!this.stage.toggleMasks() ? "Masks off" : this.sheets[0].masks ? "Masks on" : "Masks on; none here"),
      zoom: () => this.deck?.current && this.say(this.stage.zoom(this.deck.current.card) ? "Zoomed to the box" : "The whole image"),
    };
  }

  buildActs() {
    const actions = this.actions();
    const act = (name, label) =>
      el("button", { type: "button", class: `act ${name}`, onclick: (event) => this.pressed(event, actions[name]) }, el("span", {}, label), el("kbd", {}, keyName(this.keymap.of(name))));
    this.acts.replaceChildren(act("undo", "Undo"), act("reject", "Reject"), act("skip", "Skip"), act("accept", "Accept"), act("flag", "Flag"), act("edit", "Mend"));
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
    for (const outbox of [this.outbox, this.corrections].filter((one) => one.unsaved)) {
      forgetBrought(); // it does not know of these
      await outbox.flush();
    }
    await this.open();
  }

  async open() {
    this.root.dataset.state = "loading";
    delete this.root.dataset.shown;
    try {
      const setup = await get("/api/review/setup", { dataset: this.bar.query.dataset });
      this.bar.offer(setup);
      this.allReasons = setup.reasons;
      if (setup.dataset === null) return this.showPanel("nothing");
      await this.load();
    } catch (error) {
      if (error.status === 401) return toSignIn();
      this.showProblem(error, () => this.open());
    }
  }

  async load() {
    await this.reading?.catch(() => {}); // of the queue before
    const { query } = this.bar;
    const held = query.human === "undecided" ? [...this.outbox.waiting.map((one) => one.candidate_id), ...this.outbox.found] : [];
    this.outbox.found = [];
    this.deck = new Deck({ ...query, reviewer: this.reviewer }, held);
    this.mine = [];
    this.redoable = [];
    this.older = "";
    const { deck } = this;
    const first = deck.fill().then(() => deck.current && this.show()); // before anything that it does not need
    await Promise.all([first, this.readBack(first), first.then(() => this.count())]);
    if (deck !== this.deck) return;
    if (deck.current) this.showRecent();
    else this.show();
  }

  // More of what undo takes back, once `after` is done.
  readBack(after = null) {
    this.reading ??= this.readOlder(after).finally(() => (this.reading = null));
    return this.reading;
  }

  async readOlder(after) {
    await after;
    const scope = { dataset: this.bar.query.dataset, reviewer: this.reviewer, before: this.older };
    this.older = null;
    const page = await get("/api/review/history", scope);
    if (page.some((one) => one.draft)) await this.nameClasses(scope.dataset);
    const known = new Set(this.mine.map((op) => op.op_id));
    const read = page.filter((one) => !known.has(one.op_id)).map((one) => ({ ...one, id: one.card.id, thumb: thumb(one.card) }));
    const [before, now] = [this.mine.filter((op) => op.at), this.mine.filter((op) => !op.at)];
    this.mine = [...[...before, ...read].sort((a, b) => a.at - b.at), ...now];
    this.older = page.findLast((one) => one.id)?.id ?? null;
  }

  async nameClasses(dataset) {
    const classes = await get(`/api/edits/classes/${dataset}`);
    this.names = new Map(classes.map((one) => [one.id, one.name]));
  }

  // A whole new image is rejected for other reasons than a change of one.
  offerReasons(reasons) {
    if (reasons === this.reasons) return;
    this.reasons = reasons;
    const button = (reason, i) => el("button", { type: "button", onclick: (event) => this.pressed(event, () => this.rejectFor(i)) }, el("kbd", {}, i + 1), reason);
    this.why.replaceChildren(el("span", {}, "because"), ...reasons.map(button));
  }

  // Under another name from here on; what is on the screen comes along.
  async rename(name) {
    const was = this.reviewer;
    this.reviewer = name.trim() || "local";
    keepName(this.reviewer);
    if (!this.deck) return;
    this.deck.query.reviewer = this.reviewer;
    Object.assign(this, { mine: [], redoable: [], older: "" });
    await this.hold(was);
    await this.readBack().catch((error) => this.say(`Earlier verdicts cannot be read: ${error.message}`, true));
    this.showRecent();
  }

  // Deciding

  rejectFor(index) {
    if (index < this.reasons.length) this.decide("reject", { reason: this.reasons[index] });
  }

  decide(decision, more = {}) {
    const item = this.deck?.current;
    if (!item || this.root.dataset.state !== "ready") return;
    this.redoable = [];
    const mended = decision === "accept" && Object.keys(item.card.correction).length > 0; // accepting keeps the correction
    this.give(item, mended ? "edit" : decision, mended ? { edit: item.card.correction } : more);
    this.deck.advance();
    this.show();
    this.tour.did("decide");
  }

  // `more`: a reason, or a correction of the candidate as `edit`.
  give(item, decision, more) {
    const { card } = item;
    const op = { op_id: opId(), id: card.id, decision, ...more, card, thumb: thumb(card), before: item.human };
    this.outbox.push({ op_id: op.op_id, candidate_id: op.id, decision, reviewer: this.reviewer, ...more, ...seen(card) });
    this.mine.push(op);
    this.progress.decided();
    this.change(item, decision);
    corrected(card, more.edit ?? {}, this.names);
    this.say(`${WORDS[decision]}${more.reason ? `, ${more.reason}` : ""}, candidate ${op.id}`);
  }

  undo() {
    const op = this.deck && this.mine.pop();
    if (!op && this.reading) return void this.reading.then(() => this.undo(), () => {});
    if (!op) return this.say("Nothing to take back.");
    const item = this.deck.goTo(op.card, op.decision);
    if (op.draft) this.takeBackDraft(op, item);
    else this.takeBack(op, item);
    this.redoable.push(op);
    this.show();
    this.tour.did("undo");
    if (this.mine.length < FEW && this.older) this.readBack().catch((error) => this.say(`Older verdicts cannot be read: ${error.message}`, true));
  }

  takeBack(op, item) {
    this.outbox.push({ op_id: opId(), candidate_id: op.id, decision: "undo", reviewer: this.reviewer, undoes: op.op_id, ...seen(op.card) });
    const earlier = this.mine.findLast((other) => other.id === op.id && !other.draft);
    this.change(item, op.before ?? earlier?.decision ?? null);
    corrected(item.card, earlier?.edit ?? {}, this.names);
    this.progress.takenBack();
    this.say(`Took back: ${WORDS[op.decision]}, candidate ${op.id}`);
  }

  redo() {
    const op = this.redoable.pop();
    if (!op) return this.say("Nothing to give again.");
    const item = this.deck.goTo(op.card, null);
    if (op.draft) this.correct(item, op.draft, op.earlier);
    else {
      this.give(item, op.decision, { ...(op.reason ? { reason: op.reason } : {}), ...(op.edit ? { edit: op.edit } : {}) });
      this.deck.advance();
    }
    this.show();
  }

  change(item, human) {
    const key = (value) => value ?? "undecided";
    this.tally[key(item.human)] = (this.tally[key(item.human)] ?? 1) - 1;
    this.tally[key(human)] = (this.tally[key(human)] ?? 0) + 1;
    item.human = human;
    item.touched = human !== null;
  }

  // What the server would not take

  wasRefused(message, item) {
    const known = this.deck?.items.find((one) => one.card.id === item.candidate_id);
    if (known) known.human = known.card.human;
    this.mine = this.mine.filter((op) => op.op_id !== item.op_id);
    this.say(message, true);
    this.showRecent();
  }

  met(item, answer) {
    const known = this.deck?.items.find((one) => one.card.id === item.candidate_id);
    if (known) known.human = answer.theirs.decision === "undo" ? null : answer.theirs.decision;
    this.mine = this.mine.filter((op) => op.op_id !== item.op_id);
    this.conflicts.add(item, answer);
    this.showRecent();
  }

  overrule(item, theirs) {
    const again = { ...item, op_id: opId() };
    if (item.image_id) return this.corrections.push({ ...again, base: theirs.number });
    this.outbox.push({ ...again, seen: theirs.version });
    this.visit(item.candidate_id, (shown) => this.mine.push({ ...again, id: item.candidate_id, card: shown.card, thumb: thumb(shown.card), before: theirs.decision }));
  }

  // Mending

  async mend() {
    const item = this.deck?.current;
    if (!item || this.root.dataset.state !== "ready" || this.busy) return;
    this.editor = null; // keys rest from here on
    try {
      const { Editor } = await import("../editor/editor.js");
      this.editor = await Editor.open(item.card, { key: keyName(this.keymap.of("edit")), waiting: this.corrections.waiting, kept: (kept) => this.mended(item, kept), closed: () => this.closeEditor() });
      this.root.append(this.editor.root);
      this.editor.show();
    } catch (error) {
      this.editor = undefined;
      this.say(`The editor cannot be opened: ${error.message}. Nothing was changed.`, true);
    }
  }

  closeEditor() {
    this.editor?.root.remove();
    this.editor = undefined;
    this.root.focus();
  }

  // `edit`: the candidate's own correction; `draft` that of the image, `earlier` what it was before. Either may be null.
  mended(item, { edit, draft, earlier, names }) {
    this.names = names;
    if (draft) this.correct(item, draft, earlier);
    if (edit) this.decide("edit", { edit });
    else this.show();
  }

  // A correction of the image's annotations: a version of its own, to be taken back like a verdict.
  correct(item, draft, earlier) {
    const { card } = item;
    const op = { op_id: opId(), id: card.id, decision: "edit", card, thumb: thumb(card), draft, earlier };
    this.sendDraft(card, op.op_id, draft);
    this.mine.push(op);
    this.say(`Corrected image ${card.image}`);
  }

  takeBackDraft(op, item) {
    this.sendDraft(item.card, opId(), op.earlier);
    this.say(`Took back the correction of image ${item.card.image}`);
  }

  sendDraft(card, op, draft) {
    this.corrections.push({ op_id: op, image_id: card.image, base: card.edition, draft, reviewer: this.reviewer });
    const edition = card.edition + 1;
    const alike = new Set([card, ...this.deck.items.map((one) => one.card).filter((one) => one.image === card.image)]);
    for (const one of alike) redrawn(Object.assign(one, { edition }), draft, this.names);
  }

  // Keeps what is at hand from being given to somebody else; what somebody else has by now is left to them.
  async hold(was = null) {
    const open = this.deck?.ahead() ?? [];
    if (!open.length || this.bar.query.human !== "undecided") return;
    try {
      const { lost } = await send("/api/review/leases", { reviewer: this.reviewer, ids: open.slice(0, 500), was });
      this.deck.drop(Object.keys(lost).map(Number));
    } catch (error) {
      if (error.status) this.say(`What is on the screen cannot be kept from others: ${error.message}`);
    }
  }

  // Looking around

  async readOn() {
    if (this.deck.ended) return;
    const deck = this.deck;
    try {
      await deck.fill();
      deck.prepare();
      if (!this.outbox.unsaved) await this.count();
    } catch (error) {
      this.say(`Cannot read on: ${error.message}. Trying again.`, true);
      setTimeout(() => deck === this.deck && this.readOn(), LOOK_AGAIN);
    }
    if (deck === this.deck && this.root.dataset.state !== "ready") this.show();
  }

  async count() {
    const counted = await get("/api/review/counts", { ...this.bar.query, order: null });
    if (!this.outbox.unsaved || !Object.keys(this.tally).length) this.tally = counted.human;
    this.progress.show(this.tally);
  }

  look(step) {
    if (!this.deck?.look(step)) return this.say(step < 0 ? "This is the first one." : "This is the last one at hand.");
    this.show();
  }

  toOpen() {
    if (!this.deck) return;
    this.deck.advance();
    this.show();
  }

  revisit(op) {
    this.deck.goTo(op.card, op.decision);
    this.show();
  }

  told(id) {
    return get(`/api/candidates/${id}`, { reviewer: this.reviewer, audit: this.bar.query.audit });
  }

  // To any candidate by its id, at hand or not.
  async visit(id, then = () => {}) {
    try {
      const known = this.deck.items.find((item) => item.card.id === id)?.card ?? (await this.told(id)).card;
      then(this.deck.goTo(known, known.human));
      this.show();
    } catch (error) {
      this.say(`Candidate ${id} cannot be shown: ${error.message}`, true);
    }
  }

  askAgain() {
    if (this.deck?.current && this.root.dataset.state === "ready") this.again.showModal();
  }

  async makeAgain(wording, amount) {
    const candidate = this.deck.current.card.id;
    try {
      const run = await send("/api/again", { candidate, wording, amount });
      this.say(`Run ${run.id} makes candidate ${candidate} again; the result comes at the end of the queue.`, true);
    } catch (error) {
      this.say(`Candidate ${candidate} cannot be made again: ${error.message}`, true);
    }
  }

  // Drawing

  show() {
    const item = this.deck.current;
    afterPaint(() => this.showRest());
    if (!item) return this.deck.ended ? this.showEnd() : void (this.root.dataset.state = "loading");
    this.uncover(item);
    const pictures = this.deck.pictured(item.card);
    pictures.ready.then(() => this.settle(item, pictures));
  }

  // Brings the item to the front, drawn now if it does not lie ready behind.
  uncover(item) {
    this.drawBehind(item);
    const [was, now] = this.sheets;
    this.sheets = [now, was];
    now.lay(true);
    was.lay(false);
    was.forget();
    this.offerReasons(this.allReasons[item.card.whole ? "whole" : "change"]);
    Object.assign(this.root.dataset, { state: "ready", id: item.card.id, human: item.human ?? "" });
  }

  drawBehind(item) {
    const behind = this.sheets[1];
    if (behind.holds(item)) return;
    behind.draw(item, this.deck.pictured(item.card), this.stage.masked);
    this.stage.cutAt(this.stage.cut);
  }

  // What nobody waits for, kept out of the time from key to picture.
  showRest() {
    this.deck.prepare();
    this.progress.show(this.tally);
    this.showRecent();
    for (const sheet of this.sheets) sheet.rest();
    if (this.deck.current && this.deck.next) this.drawBehind(this.deck.next);
    this.readOn();
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.showMore(), REST);
  }

  // Marks the card as painted with its own pictures; draws it again when one of them turned out broken.
  settle(item, pictures) {
    if (this.deck.current !== item) return;
    const broken = [pictures.before, pictures.after].some((image) => image?.dataset.broken);
    if (broken && !this.sheets[0].broken) this.uncover(item);
    this.root.dataset.shown = item.card.id;
    this.appeared();
    this.tour.greet();
  }

  // The other attempts and the trail of verdicts; the server leaves out what is not to be known yet.
  async showMore() {
    const item = this.deck.current;
    if (!item || this.root.dataset.state !== "ready") return;
    try {
      const told = await this.told(item.card.id);
      if (this.deck.current === item) this.sheets[0].more.replaceChildren(...more(told, (id) => this.visit(id)));
    } catch (error) {
      if (this.deck.current === item) this.sheets[0].more.replaceChildren(el("p", { class: "quiet" }, `Its history cannot be read: ${error.message}`));
    }
  }

  showSaving() {
    const [verdicts, edits] = [this.outbox, this.corrections].map((one) => one?.state ?? { unsaved: 0, durable: true });
    if (verdicts.signedOut || edits.signedOut) this.say(SIGNED_OUT, true);
    const state = { ...verdicts, unsaved: verdicts.unsaved + edits.unsaved, failing: verdicts.failing || edits.failing, durable: verdicts.durable && edits.durable, problem: verdicts.problem || edits.problem };
    this.atRisk = state.unsaved > 0 && (state.failing || !state.durable);
    this.saving.show(state);
    this.root.dataset.unsaved = state.unsaved;
  }

  showRecent() {
    this.recent.show(this.mine);
  }

  say(text, important = false) {
    this.live.textContent = text;
    this.notice.hidden = !important;
    this.notice.textContent = important ? text : "";
  }

  // When there is nothing to judge

  showPanel(name, tally = null) {
    Object.assign(this.root.dataset, { state: "panel", panel: name });
    delete this.root.dataset.shown;
    this.panel.replaceChildren(...panel(name, this.links, tally));
    this.appeared();
  }

  showProblem(error, again) {
    Object.assign(this.root.dataset, { state: "panel", panel: "problem" });
    this.panel.replaceChildren(...trouble(error, again));
    this.appeared();
  }

  showEnd() {
    const total = Object.values(this.tally).reduce((sum, n) => sum + n, 0);
    if (!total) this.showPanel("empty");
    else if (this.bar.query.human !== "undecided") this.showPanel(this.deck.items.length ? "done" : "none");
    else this.showPanel("done", this.tally);
    const deck = this.deck;
    setTimeout(() => deck === this.deck && !deck.current && this.lookAgain(), LOOK_AGAIN);
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
}
