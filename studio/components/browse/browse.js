// The grid: many candidates at once, narrowed by anything that is known of them, and decided together.

import { el } from "../dom.js";
import { keepName, reviewer, settle, signedIn, toSignIn } from "../early.js";
import { listen } from "../keys.js";
import { get } from "../review_card/deck.js";
import { Outbox, opId, send } from "../review_card/outbox.js";
import { Ranges, ranged } from "./ranges.js";
import { Tiles, sheet } from "./tiles.js";

const ACTS = { prefix: "winnow.act.", address: "/api/grid/acts" };
const PAGE = 100;
const SMALL = "winnow.grid-size";
const PLACE = ["dataset", "run", "kind", "category", "human", "order", "says", "strategy", "text", "scores", "cluster", "selection"];
const LABELS = { dataset: "Data set", run: "Run", kind: "Kind", category: "Class", human: "Show", order: "Order" };
const HUMAN = [["undecided", "Undecided"], ["accept", "Accepted"], ["edit", "Corrected"], ["reject", "Rejected"], ["skip", "Skipped"], ["flag", "Flagged"], ["disputed", "In dispute"], ["any", "All"]];
const SAYS = [["", "Anything"], ["accept", "Accepts"], ["reject", "Rejects"], ["pending", "Leaves open"]];
const GROUPS = [["", "…"], ["category", "Class"], ["run", "Run"], ["strategy", "Strategy"], ["says", "What the policy says"], ["cluster", "Likeness"]];
const VERBS = { accept: "Accept", reject: "Reject", skip: "Skip" };
const DONE = { accept: "accepted", reject: "rejected", skip: "skipped" };
const KEYS = [["←↑↓→", "move"], ["Shift", "range"], ["Ctrl+A", "all"], ["a", "accept"], ["x", "reject"], ["Space", "skip"], ["u y", "undo, redo"], ["[ ]", "page"], ["Enter", "open"]];

const LEGEND = [["accept", "policy accepts"], ["reject", "rejects"], ["pending", "open"]];

let standing = null; // the one grid of the page

// Shows the grid in `element`, and in another one when it is called again. `links` are the addresses of the pages that empty states
// point to. Resolves when there is something to be seen.
export function mount(element, { links }) {
  standing ??= new Browse(links);
  standing.enter(element.querySelector(".island") ?? element);
  return standing.seen;
}

class Browse {
  constructor(links) {
    this.links = links;
    this.reviewer = reviewer();
    this.pages = []; // the cursors of the pages so far
    this.undone = new Map(); // act -> what stood before on the tiles at hand
    this.mine = []; // the acts that can be taken back, the latest first; not `known` until the server has said them
    this.known = false;
    this.given = new Map(); // act -> the deed, of those of this visit
    this.redoable = []; // deeds that were taken back, to be done again
    this.tiles = new Tiles({ changed: () => this.showSelection(), opened: (id) => this.openInReview(id) });
    this.ranges = new Ranges(() => this.choose({ scores: this.ranges.value }));
    this.build();
    this.outbox = new Outbox(ACTS, {
      changed: () => this.showSaving(this.outbox.state),
      refused: (message) => this.refuse(message),
      conflict: (_, answer) => this.refuse(answer.message),
      saved: (deed, answer) => this.settled(deed, answer),
    });
    listen(this.root, { commands: this.commands(), held: ["left", "right", "arrowup", "arrowdown", "shift+left", "shift+right"], active: () => !this.dialog.open });
  }

  enter(place) {
    settle(this.root, place);
    place.closest(".gradio-container")?.classList.add("browsing"); // the page gives up its margins
    this.fit();
    this.seen ??= this.start();
  }

  commands() {
    const moves = {};
    for (const [key, step] of [["left", "left"], ["right", "right"], ["arrowup", "up"], ["arrowdown", "down"], ["home", "first"], ["end", "last"]]) {
      moves[key] = () => this.tiles.move(step, "only");
      moves[`shift+${key}`] = () => this.tiles.move(step, "extend");
      moves[`ctrl+${key}`] = () => this.tiles.move(step, "focus");
    }
    return {
      ...moves,
      "ctrl+space": () => this.tiles.toggle(),
      "ctrl+a": () => this.tiles.all(),
      escape: () => this.tiles.none(),
      a: () => this.decide("accept"),
      x: () => this.decide("reject"),
      space: () => this.decide("skip"),
      u: () => this.undo(),
      "ctrl+z": () => this.undo(),
      y: () => this.redo(),
      "ctrl+y": () => this.redo(),
      "ctrl+shift+z": () => this.redo(),
      "]": () => this.turn(1),
      "[": () => this.turn(-1),
      pagedown: () => this.turn(1),
      pageup: () => this.turn(-1),
      enter: () => this.tiles.at >= 0 && this.openInReview(this.tiles.tiles[this.tiles.at].id),
      s: () => this.alike(),
      "/": () => this.text.focus(),
    };
  }

  // Building, once

  build() {
    this.selects = {};
    this.found = el("b", { class: "found", role: "status" });
    this.chosen = el("span", { class: "chosen" });
    this.saving = el("span", { class: "saving", role: "status" });
    this.notice = el("div", { class: "w-banner bad", role: "alert", hidden: true });
    this.panel = el("div", { class: "w-empty", hidden: true });
    this.live = el("div", { class: "unseen", "aria-live": "polite" });
    this.chips = el("div", { class: "chips" });
    this.dialog = el("dialog", {});
    const hints = el("footer", { class: "hints", "aria-label": "Keys" }, KEYS.map(([key, what]) => el("span", {}, el("kbd", {}, key), ` ${what}`)), el("span", { class: "legend" }, LEGEND.map(([says, what]) => el("span", {}, el("i", { class: "says", "data-says": says }), what))));
    const main = el("div", { class: "main" }, this.buildTools(), this.chips, this.notice, this.panel, this.tiles.root, hints);
    this.root = el("section", { class: "browse w", "aria-label": "Grid", "data-state": "loading" }, el("h1", { class: "unseen" }, "Grid"), this.buildBar(), el("div", { class: "body" }, this.buildSide(), main), this.live, this.dialog);
    addEventListener("resize", () => this.fit());
  }

  select(name, label) {
    this.selects[name] = el("select", { "aria-label": label, onchange: () => this.choose({ [name]: this.selects[name].value }) });
    return el("label", {}, el("span", {}, label), this.selects[name]);
  }

  buildBar() {
    const selects = Object.entries(LABELS).map(([name, label]) => this.select(name, label));
    this.you = el("input", { type: "text", maxlength: "80", placeholder: "your name", autocomplete: "off", "aria-label": "Your name in the record", onchange: () => this.rename(this.you.value) });
    this.you.value = this.reviewer === "local" ? "" : this.reviewer;
    if (signedIn()) Object.assign(this.you, { readOnly: true, title: "The name you signed in with" });
    return el("header", { class: "bar" }, selects, el("label", { class: "you" }, el("span", {}, "You"), this.you), this.saving);
  }

  buildSide() {
    this.text = el("input", { type: "search", placeholder: "Words in the texts  ( / )", "aria-label": "Words in the texts", maxlength: "200" });
    const form = el("form", { role: "search", onsubmit: (event) => this.searched(event) }, this.text);
    this.text.addEventListener("search", () => this.searched());
    this.by = el("select", { "aria-label": "Group by", onchange: () => this.group() });
    this.by.replaceChildren(...GROUPS.map(([value, title]) => el("option", { value }, title)));
    this.groups = el("ul", { class: "groups" });
    this.views = el("ul", { class: "views" });
    const keep = el("form", { onsubmit: (event) => this.keepView(event) }, (this.viewName = el("input", { type: "text", maxlength: "80", required: true, placeholder: "Name of this view", "aria-label": "Name of this view" })), el("button", { type: "submit" }, "Save"));
    return el(
      "aside",
      { class: "side", "aria-label": "Find" },
      form,
      this.select("says", "The policy"),
      this.select("strategy", "Strategy"),
      el("details", { open: true }, el("summary", {}, "Scores"), this.ranges.root),
      el("details", { open: true }, el("summary", {}, "Groups"), el("label", {}, el("span", {}, "Group by"), this.by), this.groups),
      el("details", { open: true }, el("summary", {}, "Saved views"), this.views, keep),
    );
  }

  buildTools() {
    const act = (decision, key) => el("button", { type: "button", class: `act ${decision}`, onclick: (event) => this.pressed(event, () => this.decide(decision)) }, `${VERBS[decision]} `, el("kbd", {}, key));
    const whole = el("select", { class: "whole", "aria-label": "Decide all that match", onchange: () => this.askWhole() });
    whole.replaceChildren(el("option", { value: "" }, "All that match…"), ...Object.entries(VERBS).map(([value, verb]) => el("option", { value }, `${verb} all that match`)));
    this.whole = whole;
    this.undoButton = el("button", { type: "button", disabled: true, onclick: (event) => this.pressed(event, () => this.undo()) }, "Undo ", el("kbd", {}, "u"));
    this.prior = el("button", { type: "button", "aria-label": "Page before", onclick: () => this.turn(-1) }, "‹");
    this.next = el("button", { type: "button", "aria-label": "Next page", onclick: () => this.turn(1) }, "›");
    this.pageNumber = el("span", { class: "page" });
    const size = el("button", { type: "button", title: "Larger or smaller tiles", "aria-label": "Larger or smaller tiles", onclick: () => this.resize() }, "▦");
    return el("div", { class: "tools" }, this.found, this.chosen, el("div", { class: "acts" }, act("reject", "x"), act("skip", "Space"), act("accept", "a"), whole, this.undoButton), el("div", { class: "turn" }, size, this.prior, this.pageNumber, this.next));
  }

  // A button pressed by mouse must not keep the focus: space would press it again.
  pressed(event, run) {
    if (event.detail > 0) event.currentTarget.blur();
    run();
  }

  fit() {
    this.root.style.setProperty("--top", `${Math.round(this.root.getBoundingClientRect().top + scrollY)}px`);
  }

  resize() {
    if (localStorage.getItem(SMALL)) localStorage.removeItem(SMALL);
    else localStorage.setItem(SMALL, "1");
    this.sized();
  }

  sized() {
    this.tiles.root.classList.toggle("small", localStorage.getItem(SMALL) !== null);
  }

  // Choosing a place

  async start() {
    this.sized();
    const address = new URLSearchParams(location.search);
    this.place = Object.fromEntries(PLACE.map((name) => [name, address.get(name) ?? ""]));
    this.place.human ||= "undecided";
    this.place.order ||= "oldest";
    await this.open();
  }

  async open() {
    await this.tell(async () => {
      const setup = await get("/api/grid/setup", { dataset: this.place.dataset });
      this.setup = setup;
      this.place.dataset = setup.dataset === null ? "" : String(setup.dataset);
      this.offer();
      this.known = false;
      if (setup.dataset === null) return this.showEmpty("No data set yet", "Import one, or load the demo.", "datasets", "Datasets");
      await this.look();
      await this.acts();
      this.ranges.show(await get("/api/grid/scales", { dataset: this.place.dataset }), this.place.scores);
    });
  }

  offer() {
    const { setup, place } = this;
    const all = (title, options) => [{ value: "", title }, ...options];
    const pairs = (list) => list.map(([value, title]) => ({ value, title }));
    const like = place.order.startsWith("similar:") ? [{ value: place.order, title: `Like candidate ${place.order.slice(8)}` }] : [];
    fill(this.selects.dataset, setup.datasets, place.dataset);
    fill(this.selects.run, all("All runs", setup.runs), place.run);
    fill(this.selects.kind, all("All kinds", setup.kinds), place.kind);
    fill(this.selects.category, all("All classes", setup.categories), place.category);
    fill(this.selects.human, pairs(HUMAN), place.human);
    fill(this.selects.order, [...setup.orders, ...like], place.order);
    fill(this.selects.says, pairs(SAYS), place.says);
    fill(this.selects.strategy, all("Any", setup.strategies), place.strategy);
    this.selects.strategy.closest("label").hidden = !setup.strategies.length;
    this.text.value = place.text;
    this.showViews();
  }

  async choose(change) {
    Object.assign(this.place, change);
    if ("dataset" in change) Object.assign(this.place, { run: "", kind: "", category: "", strategy: "", scores: "", cluster: "", order: "oldest", selection: "" });
    history.replaceState(null, "", `${location.pathname}?${this.query()}`); // "?" alone would follow the <base> of Gradio's page
    if ("dataset" in change) return this.open();
    this.offer();
    await this.tell(() => this.look());
  }

  query() {
    const usual = { human: "undecided", order: "oldest" };
    return new URLSearchParams(Object.entries(this.place).filter(([name, value]) => value && value !== usual[name]));
  }

  // The name under which verdicts are kept, here and in Review.
  rename(name) {
    this.reviewer = name.trim() || "local";
    keepName(this.reviewer);
    return this.tell(async () => {
      await this.acts();
      await this.look();
    });
  }

  searched(event) {
    event?.preventDefault();
    if (this.text.value !== this.place.text) this.choose({ text: this.text.value });
  }

  alike() {
    if (this.tiles.at >= 0) this.choose({ order: `similar:${this.tiles.tiles[this.tiles.at].id}`, human: "any" });
  }

  openInReview(id) {
    this.tell(async () => {
      const ids = this.tiles.selected.has(id) ? [...this.tiles.selected] : [id];
      const kept = await send("/api/lab/these", { dataset: Number(this.place.dataset), ids });
      location.assign(`${this.links.review}?${new URLSearchParams({ dataset: this.place.dataset, selection: kept.selection, human: "any" })}`);
    });
  }

  // Looking

  async look() {
    this.pages = [""];
    this.showChips();
    await Promise.all([this.read(""), this.count()]);
    if (this.by.value) await this.group();
  }

  async read(cursor) {
    this.root.dataset.state = "loading";
    const wanted = (this.wanted = Symbol("page"));
    const page = await this.fetched(cursor);
    if (wanted !== this.wanted) return this.tiles.drop(page); // somebody chose something else meanwhile
    this.following = page.next;
    this.panel.hidden = true;
    this.tiles.show(page);
    this.root.dataset.state = "ready";
    this.root.dataset.page = this.pages.length;
    this.pageNumber.textContent = `page ${this.pages.length}`;
    this.prior.disabled = this.pages.length < 2;
    this.next.disabled = this.following === null;
    if (!page.tiles.length) this.showNone();
    else if (this.following) this.lookAhead(this.following);
  }

  // Reads a page before it is turned to, but not before this one is painted: its thumbnails take the same cores.
  lookAhead(cursor) {
    this.ahead?.page.then((page) => page !== this.tiles.page && this.tiles.drop(page), () => {});
    const ahead = { cursor, page: this.tiles.painted().then(() => this.asked(cursor)) };
    ahead.page.catch(() => (this.ahead = this.ahead === ahead ? null : this.ahead));
    this.ahead = ahead;
  }

  async fetched(cursor) {
    return cursor && this.ahead?.cursor === cursor ? this.ahead.page : this.asked(cursor);
  }

  async asked(cursor) {
    const page = await get("/api/grid/page", { ...this.place, cursor, limit: PAGE, reviewer: this.reviewer });
    return { next: page.next, ...(await this.tiles.prepare(page.tiles, await sheet(page.tiles))) };
  }

  async count() {
    this.total = null;
    this.found.textContent = "counting…";
    const { count } = await get("/api/grid/count", this.place);
    this.total = count;
    this.found.textContent = `${shown(count)} ${count === 1 ? "matches" : "match"}`;
    this.whole.disabled = !count;
  }

  turn(step) {
    if (step > 0 && (this.following === null || this.root.dataset.state !== "ready")) return this.say("This is the last page.");
    if (step < 0 && this.pages.length < 2) return this.say("This is the first page.");
    if (step > 0) this.pages.push(this.following);
    else this.pages.pop();
    return this.tell(() => this.read(this.pages.at(-1)));
  }

  async group() {
    if (!this.by.value) return this.groups.replaceChildren();
    await this.tell(async () => {
      try {
        const found = await get("/api/grid/groups", { ...this.place, by: this.by.value });
        this.groups.replaceChildren(...found.map((one) => this.groupLine(one)));
      } catch (error) {
        this.groups.replaceChildren(el("li", { class: "w-quiet" }, error.message));
      }
    });
  }

  groupLine({ value, title, count }) {
    const alone = this.place[this.by.value] === String(value);
    const free = value === null || value === -1; // nothing that a place could name
    const pick = () => this.choose({ [this.by.value]: alone ? "" : String(value) });
    return el("li", {}, el("button", { type: "button", disabled: free, "aria-pressed": String(alone), onclick: pick }, el("span", {}, title), el("b", {}, shown(count))));
  }

  // Deciding

  decide(decision) {
    const ids = [...this.tiles.selected];
    if (!ids.length) return this.say("Nothing is selected. Ctrl+A selects all that are shown.", true);
    const deed = { op_id: opId(), place: this.sent(), decision, reviewer: this.reviewer, ids };
    this.redoable = [];
    this.give(deed, new Set(ids));
    this.say(`${shown(ids.length)} ${DONE[decision]}.`);
    this.tiles.forward();
  }

  give(deed, ids) {
    const before = new Map(this.tiles.tiles.filter((tile) => ids.has(tile.id)).map((tile) => [tile.id, tile.human]));
    this.undone.set(deed.op_id, before);
    this.given.set(deed.op_id, deed);
    this.mine.unshift({ act: deed.op_id, decision: deed.decision, standing: deed.ids?.length ?? deed.expected });
    this.tiles.decided((tile) => (ids.has(tile.id) ? deed.decision : undefined));
    this.outbox.push(deed);
    this.showUndo();
  }

  askWhole() {
    const decision = this.whole.value;
    this.whole.value = "";
    if (!decision || this.total === null) return;
    const verb = VERBS[decision];
    const go = el("button", { type: "button", class: `act ${decision}`, autofocus: true, onclick: () => this.decideWhole(decision) }, `${verb} ${shown(this.total)}`);
    const off = el("button", { type: "button", class: "act", onclick: () => this.dialog.close() }, "Cancel");
    this.dialog.replaceChildren(
      el("h2", {}, `${verb} ${shown(this.total)} candidates?`),
      el("p", {}, "All that match, on this page and on the others: ", this.told().join(", ") || "no filter", "."),
      el("p", { class: "w-quiet" }, "One undo takes them all back, also later."),
      el("div", { class: "acts" }, off, go),
    );
    this.dialog.setAttribute("aria-label", `${verb} all that match`);
    this.dialog.showModal();
  }

  decideWhole(decision) {
    this.dialog.close();
    const deed = { op_id: opId(), place: this.sent(), decision, reviewer: this.reviewer, expected: this.total };
    this.redoable = [];
    this.give(deed, new Set(this.tiles.tiles.map((tile) => tile.id)));
    this.say(`Saving ${shown(this.total)} verdicts…`);
  }

  undo() {
    if (!this.known) return this.tell(() => this.acts().then(() => this.undo()));
    const last = this.mine.find((one) => one.standing > 0);
    if (!last) return this.say("Nothing to take back here. Single verdicts are taken back in Review.", true);
    last.standing = 0;
    this.outbox.push({ op_id: opId(), undoes: last.act, reviewer: this.reviewer });
    const deed = this.given.get(last.act);
    if (deed) this.redoable.push(deed);
    const before = this.undone.get(last.act);
    if (before) this.tiles.decided((tile) => (before.has(tile.id) ? before.get(tile.id) : undefined));
    this.showUndo();
  }

  // The act that was taken back last, once more; what others decided meanwhile stops it where it meant all that match.
  redo() {
    const last = this.redoable.pop();
    if (!last) return this.say("Nothing to do again.", true);
    const deed = { ...last, op_id: opId() };
    this.give(deed, new Set(deed.ids ?? this.tiles.tiles.map((tile) => tile.id)));
    this.say(`Again: ${shown(this.mine[0].standing)} ${DONE[deed.decision]}.`);
  }

  // The server has answered for an act.
  settled(deed, answer) {
    if (deed.undoes) this.say(`Took back ${shown(answer.count)}.`);
    else if (!deed.ids) this.say(`${shown(answer.count)} ${DONE[deed.decision]}.`);
    if (deed.undoes && !this.undone.has(deed.undoes)) this.tell(() => this.look());
    else if (!this.outbox.unsaved) this.tell(() => Promise.all([this.count(), this.acts(), this.group()]));
  }

  refuse(message) {
    this.say(message, true);
    this.tell(async () => {
      await this.acts();
      await this.look();
    });
  }

  async acts() {
    const mine = await get("/api/grid/acts", { dataset: this.place.dataset, reviewer: this.reviewer });
    if (!this.outbox.unsaved) this.mine = mine;
    else if (!this.known) this.mine.push(...mine.filter((one) => !this.given.has(one.act)));
    this.known = true;
    this.showUndo();
  }

  sent() {
    const number = (value) => Number(value);
    const cast = { dataset: number, run: number, category: number };
    return Object.fromEntries(Object.entries(this.place).filter(([, value]) => value).map(([name, value]) => [name, cast[name] ? cast[name](value) : value]));
  }

  // Saved views

  showViews() {
    const line = (view) => el("li", {}, el("a", { href: `${location.pathname}?${view.query}` }, view.name), el("button", { type: "button", class: "remove", "aria-label": `Forget the view ${view.name}`, title: "Forget this view", onclick: () => this.removeView(view) }, "×"));
    const none = el("li", { class: "w-quiet" }, "None yet. A view is a link: it can be sent to others.");
    this.views.replaceChildren(...(this.setup.views.length ? this.setup.views.map(line) : [none]));
  }

  keepView(event) {
    event.preventDefault();
    const query = new URLSearchParams({ dataset: this.place.dataset, ...Object.fromEntries(this.query()) });
    this.tell(async () => {
      await send("/api/grid/views", { dataset: Number(this.place.dataset), name: this.viewName.value, query: String(query) });
      this.viewName.value = "";
      await this.readViews();
    });
  }

  removeView(view) {
    this.tell(async () => {
      await send(`/api/grid/views/${view.id}/remove`, {});
      await this.readViews();
    });
  }

  async readViews() {
    this.setup.views = await get("/api/grid/views", { dataset: this.place.dataset });
    this.showViews();
  }

  // Showing

  // What the place is narrowed to, in words.
  told() {
    const title = (name) => this.selects[name].selectedOptions[0]?.textContent;
    const named = ["run", "kind", "category", "human"].filter((name) => this.place[name]).map((name) => title(name));
    const { says, strategy, text, scores, cluster, selection } = this.place;
    return [...named, says && `the policy ${title("says").toLowerCase()}`, strategy && `strategy ${strategy}`, text && `“${text}”`, ...ranged(scores), cluster && `cluster ${Number(cluster.split(":")[0]) + 1}`, selection && "picked out"].filter(Boolean);
  }

  showChips() {
    const { says, strategy, text, scores, cluster, selection } = this.place;
    const narrowed = { says, strategy, text, scores, cluster, selection };
    const words = { says: () => `policy: ${says}`, strategy: () => strategy, text: () => `“${text}”`, scores: () => ranged(scores).join(", "), cluster: () => `cluster ${Number(cluster.split(":")[0]) + 1}`, selection: () => "picked out" };
    const drop = (name) => {
      this.choose({ [name]: "" });
      if (name === "scores") this.ranges.clear();
    };
    const set = Object.entries(narrowed).filter(([, value]) => value);
    this.chips.replaceChildren(...set.map(([name]) => el("span", { class: "chip" }, words[name](), el("button", { type: "button", class: "remove", "aria-label": `Take ${words[name]()} away`, onclick: () => drop(name) }, "×"))));
    this.chips.hidden = !set.length;
  }

  showSelection() {
    const n = this.tiles.selected.size;
    if (!this.chosen) return;
    this.chosen.textContent = n ? `${shown(n)} selected` : "";
    for (const button of this.root?.querySelectorAll(".tools .act") ?? []) button.disabled = !n;
    if (this.root) this.root.dataset.selected = n;
  }

  showUndo() {
    const last = this.mine.find((one) => one.standing > 0);
    this.undoButton.disabled = !last;
    this.undoButton.title = last ? `Take back: ${shown(last.standing)} ${DONE[last.decision]}` : "Nothing to take back";
  }

  showSaving({ unsaved, failing, offline, problem }) {
    const state = failing || (offline && unsaved) ? "offline" : unsaved ? "saving" : "saved";
    this.saving.textContent = { offline: "Not saved yet – trying again", saving: "Saving…", saved: "Saved" }[state];
    this.saving.dataset.state = state;
    this.saving.title = failing ? `${problem}. Nothing is lost: it is kept in this browser.` : "";
    this.root.dataset.unsaved = unsaved;
  }

  showNone() {
    const narrowed = this.told().length > 1 || this.place.human !== "undecided";
    if (narrowed) return this.showEmpty("None here", "No candidate matches all of this. Take a filter away, or choose another state under Show.");
    this.showEmpty("Nothing to decide", "Either nothing has been made yet, or all of it is decided.", "generate", "Generate");
  }

  showEmpty(title, text, page, name) {
    this.root.dataset.state = "empty";
    this.panel.hidden = false;
    this.panel.replaceChildren(el("h2", {}, title), el("p", {}, text, page ? [" ", el("a", { href: this.links[page] }, name), "."] : []));
  }

  async tell(work) {
    try {
      this.notice.hidden = true;
      await work();
    } catch (error) {
      if (error.status === 401) return toSignIn();
      this.say(error.message, true);
      if (this.root.dataset.state === "loading") this.root.dataset.state = "failed";
    }
  }

  say(text, important = false) {
    this.live.textContent = text;
    this.notice.hidden = !important;
    this.notice.textContent = important ? text : "";
  }
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(({ value, title }) => el("option", { value, selected: String(value) === String(chosen ?? "") }, title)));
}

function shown(number) {
  return number.toLocaleString("en");
}
