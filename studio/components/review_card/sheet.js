// A card as it is drawn: its question, pictures and words on the stage, the facts beside them.
//
// Review has two sheets. While one is looked at, the next card is drawn, laid out and painted on the other, behind it: a key then
// only has to uncover it.

import { el } from "../dom.js";
import { WORDS, evidence, texts } from "./face.js";
import { frames } from "./stage.js";

export class Sheet {
  constructor() {
    this.question = el("p", { class: "question" });
    this.frames = el("div", { class: "frames" });
    this.words = el("div", { class: "words" });
    this.more = el("div", { class: "more" });
    this.root = el("div", { class: "sheet" }, this.question, this.frames, this.words);
    this.facts = el("div", { class: "facts", tabindex: "-1" });
    this.drawn = [];
    this.lay(false);
    this.rest();
  }

  // In front or behind: a matter of order alone, so that nothing is laid out or painted again.
  lay(front) {
    for (const part of [this.root, this.facts]) part.classList.toggle("behind", !front);
  }

  // Behind, it takes no focus, is read by nobody and begins at its top; all that can wait until the other one is seen.
  rest() {
    const behind = this.root.classList.contains("behind");
    for (const part of [this.root, this.facts]) part.inert = behind;
    if (behind) this.facts.scrollTop = 0;
  }

  // Whether the item is on this sheet as it is now.
  holds(item) {
    return state(item).every((value, i) => value === this.drawn[i]);
  }

  forget() {
    this.drawn = [];
  }

  // `pictures`: {before, after, peek} elements, decoded by the deck; `masked`: masks are switched on.
  draw(item, pictures, masked) {
    const { card } = item;
    const shown = frames(card, pictures, masked);
    this.frames.replaceChildren(...shown);
    this.frames.classList.toggle("pair", shown.length > 1);
    this.question.replaceChildren(el("b", {}, card.title), ` ${card.question}`, stamp(item.human));
    this.words.replaceChildren(...texts(card));
    this.more.replaceChildren();
    this.facts.replaceChildren(...evidence(card), this.more);
    this.drawn = state(item);
  }

  get broken() {
    return this.root.querySelector(".broken") !== null;
  }

  get masks() {
    return this.root.querySelector("img.mask") !== null;
  }
}

// Verdicts and corrections change these.
function state(item) {
  return [item, item.human, item.card.edition, item.card.correction];
}

function stamp(human) {
  return human ? el("span", { class: `stamp ${human}` }, WORDS[human]) : "";
}
