// Islands stand before Gradio does (studio/islands.py): first in a place of the page's own, then in that of Gradio's component.

const EARLY = "#early";
const NAME = "winnow-name"; // a cookie, since the page brings along what its reader is going to ask first
const YEAR = 365 * 24 * 3600;

// Puts what an island has drawn into a place, from wherever it stands. What has the focus keeps it, and what is open stays open.
export function settle(root, place) {
  for (const link of document.querySelectorAll("link.island")) adopt(link);
  if (root.isConnected && place.isConnected && place.moveBefore) place.moveBefore(root, null);
  else if (root.parentElement !== place) carry(root, place);
  if (!place.closest(EARLY)) document.querySelector(EARLY)?.remove();
}

// Gradio's style sheets come later and would win over an island's. Those that a script adopts come after all others.
function adopt(link) {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync([...link.sheet.cssRules].map((rule) => rule.cssText).join("\n"));
  document.adoptedStyleSheets.push(sheet);
  link.remove();
}

// For browsers in which whatever moves is taken out and put in again.
function carry(root, place) {
  const focused = document.activeElement;
  const open = [...root.querySelectorAll("dialog:modal")];
  place.append(root);
  for (const dialog of open) {
    dialog.removeAttribute("open");
    dialog.showModal();
  }
  if (root.contains(focused)) focused.focus({ preventScroll: true });
}

// `{name, role}` of who is signed in; null where nobody has to.
export function signedIn() {
  const told = document.querySelector("meta[name=winnow-user]");
  return told && { name: told.content, role: told.dataset.role };
}

// To where one signs in, and from there back to this page.
export function toSignIn() {
  location.assign(`/signin?next=${encodeURIComponent(location.pathname + location.search)}`);
}

// The name in the record: that of who is signed in, else the one that was given here.
export function reviewer() {
  const kept = document.cookie.split("; ").find((one) => one.startsWith(`${NAME}=`));
  return signedIn()?.name ?? (kept ? decodeURIComponent(kept.slice(NAME.length + 1)) : "local");
}

export function keepName(name) {
  document.cookie = `${NAME}=${encodeURIComponent(name)}; path=/; max-age=${YEAR}; samesite=strict`;
}

// What the page brought along as the answer of an address, once; undefined when it did not.
export function brought(address) {
  const found = [...document.querySelectorAll("script[data-answer]")].find((one) => sorted(one.dataset.answer) === sorted(address));
  found?.remove();
  return found && JSON.parse(found.textContent);
}

// Of what was brought along nothing is true any more.
export function forgetBrought() {
  for (const one of document.querySelectorAll("script[data-answer]")) one.remove();
}

function sorted(address) {
  const url = new URL(address, location.origin);
  url.searchParams.sort();
  return url.href;
}
