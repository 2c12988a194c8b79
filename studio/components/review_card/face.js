// What stands beside the pictures: texts with their changed words, the evidence, where the candidate comes from.

import { el } from "../dom.js";
import { visible } from "./visible.js";
import { said } from "./whole.js";

export const WORDS = { accept: "accepted", reject: "rejected", skip: "skipped", edit: "corrected", flag: "flagged" };

// Segments [text, changed] as nodes; what cannot be seen or would turn the line around is made visible.
export function segments(parts, tag) {
  return parts.map(([text, changed]) => (changed ? el(tag, {}, ...visible(text)) : el("span", {}, ...visible(text))));
}

export function texts(card) {
  if (card.whole) return said(card);
  if (!card.texts) return [];
  const line = (name, parts, tag) =>
    el("p", {}, el("span", { class: "when" }, name), el("q", { dir: "auto", tabindex: long(parts) ? "0" : null }, segments(parts, tag)));
  const type = card.texts.edit_type ? el("span", { class: "type", title: "what kind of word was changed" }, card.texts.edit_type) : null;
  const corrected = card.texts.corrected ? line("Mended", [[card.texts.corrected, false]], "ins") : "";
  return [line("Before", card.texts.before, "del"), line("After", card.texts.after, "ins"), corrected, type ?? ""];
}

function long(parts) {
  return parts.reduce((sum, [text]) => sum + text.length, 0) > 400;
}

const MARKS = { pass: "✓", fail: "✕", missing: "?", free: "·" };
const STATES = { pass: "passes", fail: "fails", missing: "has no value", free: "no rule" };

function scoreRow(score) {
  const why = score.state === "fail" || score.state === "missing" ? el("small", {}, score.reason) : null;
  return el(
    "li",
    { class: score.state, title: `${score.help}\n${score.reason}`.trim() },
    el("i", { role: "img", "aria-label": STATES[score.state] }, MARKS[score.state]),
    el("span", { class: "name" }, score.title),
    el("b", {}, score.value ?? "–"),
    el("span", { class: "rule" }, score.rule),
    why,
  );
}

export function evidence(card) {
  const scores = el("ul", { class: "scores", "aria-label": "Filter scores" }, card.scores.map(scoreRow));
  const says = { accept: "Policy accepts", reject: "Policy rejects", pending: "Policy is undecided" }[card.policy.says];
  const policy = el("p", { class: `policy ${card.policy.says}`, title: card.policy.name }, el("b", {}, says), el("span", {}, card.policy.by));
  const alarm = card.alarm ? el("p", { class: "alarm", role: "note" }, el("b", {}, "May still be true"), el("span", {}, card.alarm)) : "";
  return [alarm, policy, card.scores.length ? scores : el("p", { class: "quiet" }, "No filter has scored this candidate."), facts(card)];
}

// Where it comes from; its number leads on to its whole story, except where that would tell too much.
function facts({ provenance, why }) {
  const story = (id) => el("a", { href: why, target: "_blank", rel: "noopener", title: "The whole story of this candidate" }, id, " – its whole story");
  const shown = (what, value) => (what === "Candidate" && why ? story(value) : value);
  return el("dl", {}, provenance.flatMap(([what, value]) => [el("dt", {}, what), el("dd", { title: value, dir: "auto" }, shown(what, value))]));
}

// What is fetched once somebody rests on a card: the other attempts at the same target, and who decided what.
export function more({ siblings, verdicts }, open) {
  const picture = (one) => (one.thumb ? el("img", { src: `${one.thumb}?size=80`, alt: "" }) : el("span", { dir: "auto" }, one.text ?? one.id));
  const button = (one) =>
    el("button", { type: "button", class: one.human ?? "", title: `Candidate ${one.id}${one.human ? `, ${WORDS[one.human]}` : ""}`, "aria-label": `Candidate ${one.id}, same target${one.human ? `, ${WORDS[one.human]}` : ""}`, onclick: () => open(one.id) }, picture(one));
  const others = siblings.length ? [el("h3", {}, "Other attempts"), el("div", { class: "siblings" }, siblings.map(button))] : [];
  const told = verdicts.map((one) => el("li", {}, el("b", {}, one.reviewer), ` ${one.decision === "undo" ? "took it back" : WORDS[one.decision]}${one.reason ? `: ${one.reason}` : ""}, `, el("time", {}, new Date(one.at * 1000).toLocaleString())));
  return [...others, ...(told.length ? [el("h3", {}, "Verdicts"), el("ul", { class: "trail" }, told)] : [])];
}
