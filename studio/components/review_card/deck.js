// The candidates at hand: read a page at a time, with the pictures of the next ones already decoded.

import { brought } from "../early.js";

const FIRST = 8; // candidates of the first page: short, to be here soon
const PAGE = 32;
const LOW = 48; // read on when fewer than this are left: enough for a minute without network
const AHEAD = 8;
const KEPT = 32; // decoded candidates kept, those behind included

export async function get(path, parameters = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const address = `${path}?${new URLSearchParams(given)}`;
  const known = brought(address);
  if (known) return known;
  const answer = await fetch(address);
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(body.error ?? `the server answered ${answer.status}`), { status: answer.status });
  return body;
}

export class Deck {
  // `query`: what /api/review/next takes. `held`: ids decided here whose verdicts the server may not know yet.
  constructor(query, held) {
    this.query = query;
    this.items = [];
    this.at = 0;
    this.cursor = "";
    this.known = new Set(held);
    this.pictures = new Map();
    this.filling = null;
  }

  get current() {
    return this.items[this.at] ?? null;
  }

  get ended() {
    return this.cursor === null;
  }

  // Reads on if few are left. Resolves when there is nothing to wait for; rejects when the server cannot be reached.
  fill() {
    if (this.ended || this.items.length - this.at > LOW) return Promise.resolve();
    this.filling ??= this.read().finally(() => (this.filling = null));
    return this.filling;
  }

  async read() {
    const page = await get("/api/review/next", { ...this.query, limit: this.items.length ? PAGE : FIRST, cursor: this.cursor });
    this.cursor = page.next;
    this.add(page.cards);
  }

  // From the start again, for candidates that were made after the end was reached.
  async again() {
    this.cursor = "";
    try {
      while (!this.ended && this.items.length - this.at <= LOW) await this.fill();
    } catch (error) {
      this.cursor = null;
      throw error;
    }
  }

  add(cards) {
    for (const card of cards) {
      if (!this.known.has(card.id)) this.items.push({ card, human: card.human, touched: false });
      this.known.add(card.id);
    }
    if (this.current) this.pictured(this.current.card); // the others wait until this one is painted
  }

  isOpen(item) {
    return this.query.human === "undecided" ? item.human === null : !item.touched;
  }

  // The place of the next open candidate, or the one past the last.
  get nextAt() {
    let at = this.at + 1;
    while (at < this.items.length && !this.isOpen(this.items[at])) at += 1;
    return Math.min(at, this.items.length);
  }

  get next() {
    return this.items[this.nextAt] ?? null;
  }

  advance() {
    this.at = this.nextAt;
  }

  // One place to the left or right; false at either end.
  look(step) {
    const at = this.at + step;
    if (at < 0 || at >= this.items.length) return false;
    this.at = at;
    return true;
  }

  // Ids of what is still open here, the current one first.
  ahead() {
    return this.items.slice(this.at).filter((item) => this.isOpen(item)).map((item) => item.card.id);
  }

  // Leaves out candidates that somebody else has now; never the one on the screen.
  drop(ids) {
    this.items = this.items.filter((item, i) => i <= this.at || !ids.includes(item.card.id));
  }

  // To a candidate of any age; one that is not at hand is put before the current one.
  goTo(card, human) {
    const found = this.items.findIndex((item) => item.card.id === card.id);
    if (found >= 0) this.at = found;
    else this.items.splice(this.at, 0, { card, human, touched: false });
    this.known.add(card.id);
    return this.current;
  }

  // Starts decoding the current and the next pictures, and drops those longest unused.
  prepare() {
    for (const item of this.items.slice(this.at, this.at + AHEAD + 1)) this.pictured(item.card);
    for (const id of this.pictures.keys()) {
      if (this.pictures.size <= KEPT) break;
      this.pictures.delete(id);
    }
  }

  // `{before, after, peek, ready}` of a card: elements, and a promise of them being decoded. `peek` is the picture
  // before, once more, to lay over the one after. An element can only be in one place, hence the two.
  pictured(card) {
    const known = this.pictures.get(card.id) ?? decoded(card);
    this.pictures.delete(card.id);
    this.pictures.set(card.id, known);
    return known;
  }
}

export function thumb(card) {
  const source = card.after ?? card.before;
  return source && `${source.thumb}?size=80`;
}

function decoded(card) {
  const made = { before: picture(card.before), after: picture(card.after), peek: card.after && picture(card.before) };
  if (thumb(card)) new Image().src = thumb(card); // for the latest verdicts, at hand even when the network goes
  const all = Object.values(made).filter(Boolean);
  return { ...made, ready: Promise.all(all.map(decode)).then((states) => states.every(Boolean)) };
}

function picture(source) {
  if (!source) return null;
  const image = new Image();
  image.src = source.url;
  image.draggable = false;
  return image;
}

// False when the picture cannot be shown; the card then says so.
async function decode(image) {
  try {
    await image.decode();
    return true;
  } catch {
    image.dataset.broken = "true";
    return false;
  }
}
