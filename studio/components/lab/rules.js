// Rules as plain values: which one holds where, and what a change makes of the list. Nothing here is changed in place.
//
// A rule is { filter, at_least, at_most, kinds, group, classes }. Rules of one group are alternatives, all else is joined
// by "and". A rule with classes replaces, for them, the rule of the same filter and kinds without classes.

export const BOUNDS = ["at_least", "at_most"];

// The rules to show for a kind and a class (null: all of them), as { rule, base }: `rule` is the one in force, `base` the
// general one that it replaces or is.
export function inForce(rules, kind, category) {
  const speaking = rules.filter((rule) => !kind || !rule.kinds.length || rule.kinds.includes(kind));
  const general = speaking.filter((rule) => !rule.classes.length);
  const own = speaking.filter((rule) => category && rule.classes.includes(category));
  const shown = general.map((base) => ({ base, rule: own.find((rule) => replaces(rule, base)) ?? base }));
  const alone = own.filter((rule) => !general.some((base) => replaces(rule, base)));
  return [...shown, ...alone.map((rule) => ({ base: null, rule }))];
}

function replaces(rule, base) {
  return rule.filter === base.filter && String(rule.kinds) === String(base.kinds);
}

// The list with one bound of a rule moved, for one class only when `category` is given.
export function moved(rules, rule, bound, value, category = null) {
  const changed = { ...rule, [bound]: value };
  if (!category || (rule.classes.length === 1 && rule.classes[0] === category)) return replaced(rules, rule, changed);
  const others = { ...rule, classes: rule.classes.filter((name) => name !== category) };
  return [...replaced(rules, rule, rule.classes.length ? others : rule), { ...changed, classes: [category] }];
}

export function replaced(rules, rule, by) {
  return rules.map((other) => (other === rule ? by : other));
}

export function without(rules, rule) {
  return rules.filter((other) => other !== rule);
}

export function grouped(rules, rule, group) {
  return rules.map((other) => (other === rule || (other.filter === rule.filter && replaces(other, rule)) ? { ...other, group } : other));
}

export function bounded(rule) {
  const [low, high] = BOUNDS.map((bound) => rule[bound]);
  if (low !== null && high !== null) return `${number(low)} – ${number(high)}`;
  if (low !== null) return `≥\u00a0${number(low)}`;
  return high !== null ? `≤\u00a0${number(high)}` : "has any value";
}

// Short as people write it, exact enough to be read back: 0.0213, 1.42, 188.
export function number(value) {
  return String(Number(value.toPrecision(4)));
}

// The policy as parts of a sentence: [{ text, classes }], general conditions first, then those of single classes.
export function sentence(rules, titleOf) {
  const general = rules.filter((rule) => !rule.classes.length);
  const of = (rule) => `${titleOf(rule.filter)} ${bounded(rule)}`;
  const groups = new Map();
  for (const rule of general) {
    const key = rule.group || rule;
    groups.set(key, [...(groups.get(key) ?? []), of(rule)]);
  }
  const joined = [...groups.values()].map((parts) => (parts.length > 1 ? `(${parts.join(" or ")})` : parts[0]));
  const special = rules.filter((rule) => rule.classes.length);
  return { general: joined.join(" and "), special: special.map((rule) => ({ rule, text: `for ${rule.classes.join(", ")}: ${of(rule)}` })) };
}

export function equal(a, b) {
  return JSON.stringify(a) === JSON.stringify(b);
}
