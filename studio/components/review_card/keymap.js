// Which key means what: defaults, presets for one hand, and what a person chose instead, kept in this browser.

const KEPT = "winnow.keys";
const FIXED = ["escape", "enter", "tab", "?", ..."123456789"]; // mean the same everywhere

// name, what it does, its key, a second key that always works
export const COMMANDS = [
  ["accept", "accept", "a"],
  ["reject", "reject", "x"],
  ["skip", "skip: decide later", "space"],
  ["flag", "flag: talk about it", "f"],
  ["undo", "take back the last verdict", "u", "ctrl+z"],
  ["redo", "give it again", "y", "ctrl+shift+z"],
  ["edit", "mend boxes, class and texts", "e"],
  ["back", "look back without deciding", "left"],
  ["on", "look ahead without deciding", "right"],
  ["open", "next undecided", "n"],
  ["again", "make it again: another seed, or in your own words", "g"],
  ["peek", "hold: the image before, in place of the one after", "b"],
  ["mode", "side by side, slider, flicker, difference, single", "m"],
  ["boxes", "boxes on and off", "h"],
  ["masks", "masks on and off", "k"],
  ["zoom", "zoom to the box, and back", "z"],
];

export const PRESETS = {
  standard: {},
  "left hand": { undo: "q", redo: "w", back: "s", on: "d", open: "v", mode: "c", boxes: "t", masks: "r" },
  "right hand": { accept: "l", reject: "k", skip: "j", flag: "p", edit: "i", peek: "o", masks: ",", zoom: "." },
};

const KEYS = { space: "space", left: "←", right: "→" };

// A key as people read it.
export function keyName(chord) {
  return KEYS[chord] ?? chord.replace("ctrl+", "Ctrl+").replace("shift+", "Shift+").replace(/([+])([a-z])$/, (_, plus, key) => plus + key.toUpperCase());
}

export class Keymap {
  constructor() {
    this.chosen = stored();
  }

  // The key of a command.
  of(name) {
    return this.chosen[name] ?? COMMANDS.find(([known]) => known === name)[2];
  }

  // Gives a command another key. Answers with what that key means already, and then changes nothing; null when all is well.
  bind(name, key) {
    const taken = this.meaning(key);
    if (taken !== null && taken !== name) return FIXED.includes(key) ? "something fixed" : title(taken);
    this.keep({ ...this.chosen, [name]: key });
    return null;
  }

  // The command of a key; its own text for a fixed one, null for a free one.
  meaning(key) {
    if (FIXED.includes(key)) return key;
    const found = COMMANDS.find(([name, , , second]) => this.of(name) === key || second === key);
    return found ? found[0] : null;
  }

  preset(name) {
    this.keep(PRESETS[name]);
  }

  keep(chosen) {
    this.chosen = chosen;
    localStorage.setItem(KEPT, JSON.stringify(chosen));
  }

  // chord -> function, from command -> function.
  map(actions) {
    const pairs = COMMANDS.filter(([name]) => actions[name]);
    const first = pairs.map(([name]) => [this.of(name), actions[name]]);
    const second = pairs.filter(([, , , key]) => key).map(([name, , , key]) => [key, actions[name]]);
    return Object.fromEntries([...first, ...second]);
  }
}

export function title(name) {
  return COMMANDS.find(([known]) => known === name)?.[1] ?? name;
}

// What an older version or another hand left there must not break the page: unknown commands and keys are left out.
function stored() {
  try {
    const kept = Object.entries(JSON.parse(localStorage.getItem(KEPT) ?? "{}"));
    return Object.fromEntries(kept.filter(([name, key]) => COMMANDS.some(([known]) => known === name) && typeof key === "string"));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return {};
  }
}
