// Places in a text, counted in characters as Python and the file formats count them: an emoji is one, not two.

export const letters = (text) => [...text];

// The piece of a text that spans name.
export function piece(text, spans) {
  const all = letters(text);
  return spans.map(([start, end]) => all.slice(start, end).join("")).join(" ");
}

// Phrases of a caption whose text went from `before` to `after` in one place: those beside it move along, those around it grow
// or shrink, and those of which nothing is left are lost. Answers {phrases, lost: [text]}.
export function follow(before, after, phrases) {
  const [was, now] = [letters(before), letters(after)];
  let start = 0;
  while (start < was.length && start < now.length && was[start] === now[start]) start += 1;
  let tail = 0;
  while (tail < was.length - start && tail < now.length - start && was[was.length - 1 - tail] === now[now.length - 1 - tail]) tail += 1;
  const end = was.length - tail;
  const moved = phrases.map((phrase) => {
    const spans = phrase.spans.map((span) => place(span, start, end, now.length - was.length)).filter(Boolean);
    const own = phrase.text === piece(before, phrase.spans);
    return { ...phrase, spans, text: own && spans.length ? piece(after, spans) : phrase.text };
  });
  const lost = moved.filter((phrase, i) => phrases[i].spans.length && !phrase.spans.length);
  return { phrases: moved.filter((phrase) => !lost.includes(phrase)), lost: lost.map((phrase) => phrase.text) };
}

// Where a span is once the characters from `start` to `end` were replaced, `grown` more than before; null when it is gone.
function place([from, to], start, end, grown) {
  if (to <= start) return [from, to];
  if (from >= end) return [from + grown, to + grown];
  const left = from <= start ? from : end + grown;
  const right = to >= end ? to + grown : start;
  return left < right ? [left, right] : null;
}

// The words of a text as [start, end), counted like everything here.
export function words(text) {
  const all = letters(text);
  const found = [];
  let start = null;
  for (let i = 0; i <= all.length; i += 1) {
    const inside = i < all.length && /[\p{L}\p{N}\p{M}'’-]/u.test(all[i]);
    if (inside && start === null) start = i;
    if (!inside && start !== null) {
      found.push([start, i]);
      start = null;
    }
  }
  return found;
}

// "characters 2–9, words 2–3": where a phrase stands, as people count, both from 1.
export function standing(text, spans) {
  const all = words(text);
  const told = ([from, to]) => {
    const touched = all.map((word, i) => (word[0] < to && word[1] > from ? i + 1 : 0)).filter(Boolean);
    return { letters: `${from}–${to}`, words: range(touched[0], touched.at(-1)) };
  };
  const parts = spans.map(told);
  return `offsets ${parts.map((one) => one.letters).join(", ")} · words ${parts.map((one) => one.words).join(", ")}`;
}

function range(first, last) {
  return first === undefined ? "–" : first === last ? `${first}` : `${first}–${last}`;
}

// From an index in a JavaScript string to one in characters.
export function counted(text, index) {
  return letters(text.slice(0, index)).length;
}

// A caption cut where phrases begin and end: [{text, ids}], ids of the phrases that hold the piece.
export function cut(text, phrases) {
  const all = letters(text);
  const edges = [...new Set([0, all.length, ...phrases.flatMap((one) => one.spans.flat())])].filter((at) => at <= all.length).sort((a, b) => a - b);
  return edges.slice(1).map((end, i) => {
    const holding = phrases.filter((one) => one.spans.some(([from, to]) => from <= edges[i] && to >= end));
    return { text: all.slice(edges[i], end).join(""), ids: holding.map((one) => one.id) };
  });
}
