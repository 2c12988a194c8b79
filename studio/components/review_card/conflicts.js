// Verdicts and corrections that met one of somebody else: both are shown until a person says which one counts. Kept in this browser, so that
// a reload forgets none of them.

import { el } from "../dom.js";
import { WORDS } from "./face.js";

const PREFIX = "winnow.conflict.";

export class Conflicts {
  // `overrule(item, theirs)` gives the verdict or correction again, knowing of theirs; `look(id)` shows the candidate.
  constructor({ overrule, look }) {
    this.root = el("div", { class: "conflicts", role: "alert", hidden: true });
    this.overrule = overrule;
    this.look = look;
    this.draw();
  }

  add(verdict, { message, theirs }) {
    localStorage.setItem(PREFIX + verdict.op_id, JSON.stringify({ verdict, message, theirs }));
    this.draw();
  }

  settle(conflict, mine) {
    localStorage.removeItem(PREFIX + conflict.verdict.op_id);
    if (mine) this.overrule(conflict.verdict, conflict.theirs);
    this.draw();
  }

  draw() {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX)).sort();
    this.root.hidden = !keys.length;
    this.root.replaceChildren(...keys.map((key) => this.line(JSON.parse(localStorage.getItem(key)))));
  }

  line(conflict) {
    const { verdict, theirs, message } = conflict;
    const button = (label, run) => el("button", { type: "button", onclick: run }, label);
    return el(
      "p",
      {},
      el("span", {}, verdict.candidate_id ? both(verdict, theirs) : message, " Yours does not count yet."),
      verdict.candidate_id ? button("Look", () => this.look(verdict.candidate_id)) : "",
      button(`Leave it to ${theirs.reviewer}`, () => this.settle(conflict, false)),
      button("Overrule with mine", () => this.settle(conflict, true)),
    );
  }
}

// What each of the two said.
function both(verdict, theirs) {
  const did = theirs.decision === "undo" ? "took a verdict back on" : WORDS[theirs.decision];
  const mine = verdict.decision === "undo" ? "you took yours back" : `you ${WORDS[verdict.decision]} it${reason(verdict)}`;
  return [el("b", { dir: "auto" }, theirs.reviewer), ` ${did} candidate ${verdict.candidate_id}${reason(theirs)} while ${mine}.`];
}

function reason({ reason }) {
  return reason ? ` (${reason})` : "";
}
