// Texts as they are, with what cannot be seen made visible.

import { el } from "../dom.js";

const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/gu;

// A text with its control characters as small marks that name them. The browser isolates each text (`dir=auto`), so that
// one written from right to left does not reorder what stands around it.
export function visible(text) {
  const nodes = [];
  let last = 0;
  for (const found of text.matchAll(HIDDEN)) {
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    nodes.push(text.slice(last, found.index), el("code", { class: "hidden", title: `control character U+${code}` }, `U+${code}`));
    last = found.index + found[0].length;
  }
  return [...nodes, text.slice(last)];
}
