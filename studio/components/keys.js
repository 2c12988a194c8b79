// Single keys as commands: one listener, a plain map, and never while somebody types.

const TYPING = "input, textarea, select, [contenteditable=''], [contenteditable=true]";
const PRESSES = "button, a[href], summary"; // these answer to space and enter themselves

// "a", "?", "space", "left", "ctrl+z", "ctrl+shift+z"; the command key of a Mac counts as ctrl.
// Null for a combination that no map should hold, such as alt+a.
export function chord(event) {
  if (event.altKey || event.isComposing) return null;
  const names = { " ": "space", ArrowLeft: "left", ArrowRight: "right" };
  const key = names[event.key] ?? latin(event).toLowerCase();
  const letter = /^[a-z]$/.test(key);
  if (event.ctrlKey || event.metaKey) return `ctrl+${event.shiftKey ? "shift+" : ""}${key}`;
  return event.shiftKey && (letter || key.length > 1) && key !== "shift" ? `shift+${key}` : key;
}

// On a Cyrillic or Greek layout the letter keys go by their place on the keyboard.
function latin({ key, code }) {
  const place = /^Key([A-Z])$/.exec(code ?? "");
  return place && key.length === 1 && key > "~" ? place[1] : key;
}

// Listens while `owner` is in the document. `commands`: chord -> function(event); `releases` the same for keyup.
// `held` names the chords that may repeat. `active()` false silences all.
export function listen(owner, { commands, releases = {}, held = [], active = () => true }) {
  const stop = new AbortController();
  const heard = (event, map) => {
    if (!owner.isConnected) return stop.abort();
    const name = chord(event);
    const command = name !== null && Object.hasOwn(map, name) ? map[name] : null;
    if (!command || event.defaultPrevented || !active() || taken(event.target, name)) return;
    event.preventDefault();
    if (!event.repeat || held.includes(name)) command(event);
  };
  addEventListener("keydown", (event) => heard(event, commands), { signal: stop.signal });
  addEventListener("keyup", (event) => heard(event, releases), { signal: stop.signal });
  return () => stop.abort();
}

function taken(target, name) {
  if (!(target instanceof Element)) return false;
  if (target.closest(TYPING)) return true;
  return (name === "space" || name === "enter") && target.closest(PRESSES) !== null;
}
