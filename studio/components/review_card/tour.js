// A minute's tour on the first visit. It stands beside the work and takes no key and no focus: whoever just starts is not
// held up, and doing what a step is about leads on to the next one.

import { el } from "../dom.js";

const SEEN = "winnow.tour";

// selector of what the step is about, its title, its text; `done` is what leads on by itself. `key(name)` reads a key.
const STEPS = [
  { about: ".sheets", title: "This was made", text: (key) => `Left what it was made from, right what was made. Hold ${key("peek")} to flip, press ${key("mode")} for a slider or the difference, ${key("zoom")} to zoom.` },
  { about: ".about", title: "What the filters think", text: () => "Every score beside its bound, what the policy makes of them and why, and where the candidate comes from." },
  { about: ".acts", title: "One key decides", done: "decide", text: (key) => `${key("accept")} accepts, ${key("reject")} rejects, 1 to 9 reject for a reason, ${key("skip")} skips, ${key("flag")} flags. The next one is there at once. Try it.` },
  { about: ".recent", title: "Nothing is final", done: "undo", text: (key) => `${key("undo")} takes back, as far as you like, after a reload too. The latest verdicts stand here and open on a click.` },
  { about: ".saving", title: "Saved as you go", text: () => "This light is honest: green is saved, red waits in this browser until the server is back. Nothing is lost." },
  { about: ".act.edit", title: "Mend instead of rejecting", text: (key) => `${key("edit")} opens boxes, classes and texts. All keys, this tour too, are under ?` },
];

export class Tour {
  constructor(review, key) {
    this.review = review;
    this.key = key;
    this.at = -1;
    this.root = el("aside", { class: "tour", "aria-label": "Tour", hidden: true });
  }

  // On the very first card only.
  greet() {
    if (localStorage.getItem(SEEN) === null && this.at < 0) this.start();
  }

  start() {
    localStorage.setItem(SEEN, "seen");
    this.go(0);
  }

  go(at) {
    this.at = at;
    this.review.querySelector(".toured")?.classList.remove("toured");
    const step = STEPS[at];
    this.root.hidden = !step;
    if (!step) return;
    this.review.querySelector(step.about)?.classList.add("toured");
    const next = el("button", { type: "button", class: "act accept", onclick: () => this.go(at + 1) }, at + 1 < STEPS.length ? "Next" : "Start");
    const skip = el("button", { type: "button", class: "plain", onclick: () => this.go(STEPS.length) }, "Skip the tour");
    this.root.replaceChildren(el("b", {}, step.title), el("p", {}, step.text(this.key)), el("footer", {}, el("span", {}, `${at + 1} of ${STEPS.length}`), skip, next));
  }

  // Something was done; a step that waited for it is over.
  did(what) {
    if (STEPS[this.at]?.done === what) this.go(this.at + 1);
  }
}
