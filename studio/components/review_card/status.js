// Three signs of how it stands: what is saved, how far the queue is, and the latest verdicts.

import { el } from "../dom.js";
import { WORDS } from "./face.js";

const RECENT = 10;
const RATE_WINDOW = 60_000;

export class Saving {
  constructor() {
    this.root = el("span", { class: "saving", role: "status" });
  }

  show({ unsaved, failing, offline, problem, durable }) {
    const state = offline || failing ? "offline" : unsaved ? "saving" : "saved";
    const waiting = offline ? `Offline – ${unsaved ? `${unsaved} kept in this browser` : "nothing waits"}` : `${unsaved} unsaved – trying again`;
    const text = { offline: waiting, saving: "Saving…", saved: "Saved" }[state];
    if (this.root.textContent !== text) this.root.textContent = text;
    this.root.dataset.state = state;
    const kept = durable ? "Nothing is lost: what is unsaved is kept in this browser and sent by itself." : "This browser keeps nothing: leave this page open.";
    this.root.title = state === "offline" ? `${problem || "No network"}. ${kept}` : "";
  }
}

export class Progress {
  constructor() {
    this.root = el("div", { class: "progress" });
    this.times = [];
  }

  decided() {
    this.times.push(performance.now());
  }

  takenBack() {
    this.times.pop();
  }

  // `tally`: state -> how many.
  show(tally) {
    const count = (...names) => names.reduce((sum, name) => sum + (tally[name] ?? 0), 0);
    const parts = { accept: count("accept", "edit"), reject: count("reject"), skip: count("skip", "flag") };
    const total = count(...Object.keys(tally));
    const meter = el("span", { class: "meter", "aria-hidden": "true" }, Object.entries(parts).map(([name, n]) => bar(name, n / Math.max(total, 1))));
    const pace = this.pace(count("undecided"));
    this.root.title = `${parts.accept} accepted, ${parts.reject} rejected, ${parts.skip} skipped or flagged`;
    this.root.replaceChildren(meter, el("b", {}, shown(total - count("undecided"))), ` / ${shown(total)}`, pace ? el("span", { class: "pace" }, pace) : "");
  }

  pace(left) {
    const now = performance.now();
    this.times = this.times.filter((time) => now - time < RATE_WINDOW);
    if (this.times.length < 4 || !left) return "";
    const rate = (this.times.length / Math.max(now - this.times[0], 5000)) * 60_000;
    const minutes = left / rate;
    return `${Math.round(rate)}/min · ${minutes < 1.5 ? "a minute" : minutes < 90 ? `${Math.round(minutes)} min` : `${Math.round(minutes / 60)} h`} left`;
  }
}

function bar(name, share) {
  const part = el("i", { class: name });
  part.style.width = `${100 * share}%`;
  return part;
}

// The latest verdicts, newest first; `reopen(op)` when one is pressed.
export class Recent {
  constructor(reopen) {
    this.root = el("ol", { class: "recent", "aria-label": "Latest verdicts" });
    this.reopen = reopen;
  }

  show(verdicts) {
    this.root.replaceChildren(...verdicts.slice(-RECENT).reverse().map((op) => el("li", {}, this.button(op))));
  }

  button(op) {
    const said = `${WORDS[op.decision]}${op.reason ? `: ${op.reason}` : ""}`;
    const open = (event) => {
      if (event.detail > 0) event.currentTarget.blur(); // else space would press it again
      this.reopen(op);
    };
    const picture = op.thumb ? el("img", { src: op.thumb, alt: "", onerror: (event) => event.currentTarget.replaceWith(String(op.id)) }) : op.id;
    return el("button", { type: "button", class: op.decision, title: `Candidate ${op.id}, ${said}`, "aria-label": `Candidate ${op.id}, ${said}: look again`, onclick: open }, picture);
  }
}

export function shown(number) {
  return number.toLocaleString("en");
}
