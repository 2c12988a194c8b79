// A page of tiles: pictures that come together in one answer, one tile with the focus, and any number selected.

import { afterPaint, el, svg } from "../dom.js";

const SIZE = 160;
const WORDS = { accept: "accepted", edit: "accepted with changes", reject: "rejected", skip: "skipped", flag: "flagged" };

export class Tiles {
  // `changed()` after every change of the selection, `opened(id)` for a tile that was double-clicked.
  constructor({ changed, opened }) {
    this.changed = changed;
    this.opened = opened;
    this.tiles = [];
    this.selected = new Set();
    this.at = -1; // the tile with the focus
    this.anchor = -1; // where a range began
    this.page = { nodes: [], urls: [] };
    this.root = el("div", { class: "tiles", role: "listbox", "aria-label": "Candidates", "aria-multiselectable": "true" });
    this.root.addEventListener("mousedown", (event) => this.pressed(event));
    this.root.addEventListener("dblclick", (event) => this.of(event) >= 0 && this.opened(this.tiles[this.of(event)].id));
  }

  get nodes() {
    return this.page.nodes;
  }

  // A page of tiles with their pictures (digest -> blob), drawn and its pictures decoded, to be shown now or later.
  async prepare(tiles, pictures) {
    const urls = new Map([...pictures].map(([digest, blob]) => [digest, URL.createObjectURL(blob)]));
    const nodes = tiles.map((tile, i) => this.draw(tile, i, urls.get(tile.digest)));
    const images = nodes.flatMap((node) => [...node.querySelectorAll("img")]);
    await Promise.all(images.map((img) => img.decode().catch(() => {}))); // one that cannot be seen leaves its place empty
    return { tiles, nodes, urls: [...urls.values()] };
  }

  // Shows a page; what was selected is forgotten.
  show(page) {
    this.drop(this.page);
    this.page = page;
    this.tiles = page.tiles;
    this.selected.clear();
    this.at = this.anchor = -1;
    this.root.scrollTop = 0; // before: after, it would have everything laid out at once
    this.root.replaceChildren(...page.nodes);
    this.changed();
  }

  // A page that is not shown any more, or never was.
  drop({ urls }) {
    for (const url of urls) URL.revokeObjectURL(url);
  }

  // Resolves when what is shown has been painted.
  painted() {
    return new Promise(afterPaint);
  }

  draw(tile, i, url) {
    const [width, height] = tile.size;
    const box = tile.xyxy && svg("rect", { x: tile.xyxy[0], y: tile.xyxy[1], width: tile.xyxy[2] - tile.xyxy[0], height: tile.xyxy[3] - tile.xyxy[1] });
    const picture = url
      ? [el("img", { src: url, alt: "" }), svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, box)]
      : [el("span", { class: "blank" }, "no picture")];
    const node = el(
      "div",
      { class: "tile", role: "option", id: `tile-${tile.id}`, tabindex: i ? "-1" : "0", "data-id": tile.id },
      el("div", { class: "shot" }, picture),
      el("p", { dir: "auto", title: tile.before ? `${tile.before} → ${tile.text}` : tile.text }, tile.text),
      el("span", { class: "says", title: `the policy says: ${tile.says}`, "data-says": tile.says }),
      el("span", { class: "held" }),
      tile.votes ? el("ul", { class: "votes" }, Object.entries(tile.votes).map(([name, said]) => el("li", { class: said }, el("b", {}, name), ` ${WORDS[said]}`))) : null,
    );
    this.mark(node, tile);
    if (tile.votes) node.dataset.human = ""; // still open: the votes say more than the one that stands now
    return node;
  }

  mark(node, tile) {
    node.dataset.human = tile.human ?? "";
    node.querySelector(".held").textContent = tile.held ? `${tile.held} has it` : "";
    const state = [tile.human ? WORDS[tile.human] : "undecided", `policy: ${tile.says}`, tile.held && `${tile.held} has it on the screen`];
    node.setAttribute("aria-label", `Candidate ${tile.id}, ${tile.text}, ${state.filter(Boolean).join(", ")}`);
  }

  // What people said of these changes; undefined leaves a tile as it is.
  decided(humanOf) {
    this.tiles.forEach((tile, i) => {
      const human = humanOf(tile);
      if (human === undefined) return;
      tile.human = human;
      this.mark(this.nodes[i], tile);
    });
  }

  // Selecting

  of(event) {
    const node = event.target.closest(".tile");
    return node ? this.nodes.indexOf(node) : -1;
  }

  pressed(event) {
    const at = this.of(event);
    if (at < 0 || event.button !== 0) return;
    event.preventDefault();
    if (event.shiftKey) this.extend(at);
    else if (event.ctrlKey || event.metaKey) this.toggle(at);
    else this.only(at);
  }

  only(at) {
    this.selected = new Set([this.tiles[at].id]);
    this.anchor = at;
    this.focus(at);
  }

  toggle(at = this.at) {
    if (at < 0) return;
    const { id } = this.tiles[at];
    if (!this.selected.delete(id)) this.selected.add(id);
    this.anchor = at;
    this.focus(at);
  }

  extend(at) {
    if (this.anchor < 0) this.anchor = Math.max(this.at, 0);
    const [from, to] = [Math.min(this.anchor, at), Math.max(this.anchor, at)];
    this.selected = new Set(this.tiles.slice(from, to + 1).map((tile) => tile.id));
    this.focus(at);
  }

  all() {
    this.selected = new Set(this.tiles.map((tile) => tile.id));
    this.paint();
  }

  none() {
    this.selected.clear();
    this.paint();
  }

  // One step "left", "right", "up", "down", to the "first" or "last"; `how` is "only", "extend" or "focus".
  move(step, how) {
    if (!this.tiles.length) return;
    const across = this.across();
    const by = { left: -1, right: 1, up: -across, down: across };
    const wanted = step === "first" ? 0 : step === "last" ? this.tiles.length - 1 : this.at < 0 ? 0 : this.at + by[step];
    const at = Math.min(Math.max(wanted, 0), this.tiles.length - 1);
    this[how](at);
  }

  // To the next tile after the focus that nobody has decided.
  forward() {
    const at = this.tiles.findIndex((tile, i) => i > this.at && tile.human === null);
    if (at >= 0) this.only(at);
    else this.none();
  }

  across() {
    const top = this.nodes[0].offsetTop;
    const second = this.nodes.findIndex((node) => node.offsetTop > top);
    return second < 0 ? this.nodes.length : second;
  }

  focus(at) {
    if (this.at >= 0) this.nodes[this.at]?.setAttribute("tabindex", "-1");
    this.at = at;
    const node = this.nodes[at];
    node.setAttribute("tabindex", "0");
    node.focus({ preventScroll: true });
    node.scrollIntoView({ block: "nearest" });
    this.paint();
  }

  paint() {
    for (const [i, node] of this.nodes.entries()) node.setAttribute("aria-selected", this.selected.has(this.tiles[i].id));
    this.changed();
  }
}

// All pictures of a page in one answer: digest -> blob.
export async function sheet(tiles) {
  const digests = [...new Set(tiles.map((tile) => tile.digest).filter(Boolean))];
  if (!digests.length) return new Map();
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch("/media/sheet", { method: "POST", headers, body: JSON.stringify({ size: SIZE, digests }) });
  if (!answer.ok) throw new Error(`the pictures did not come: the server answered ${answer.status}`);
  return cut(await answer.arrayBuffer(), digests);
}

function cut(bytes, digests) {
  const view = new DataView(bytes);
  const found = new Map();
  let at = 0;
  for (const digest of digests) {
    const length = view.getUint32(at, true);
    if (length) found.set(digest, new Blob([new Uint8Array(bytes, at + 4, length)], { type: "image/jpeg" }));
    at += 4 + length;
  }
  return found;
}
