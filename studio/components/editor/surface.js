// Boxes over a picture, to be moved, resized and drawn by mouse, finger or keys. Knows nothing of classes and texts.

import { el, svg } from "../dom.js";

const CORNERS = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const MOST = 12; // times the whole picture
const STEP = 1.25;
const LEAST = 2; // pixels of the image that a drawn box has at least on each side

export class Surface {
  // `select(id)`, `change(id, xyxy, kind)`, `draw(xyxy)`.
  constructor(size, { select, change, draw }) {
    this.size = size;
    this.tell = { select, change, draw };
    this.image = el("img", { alt: "", draggable: "false" });
    this.svg = svg("svg", { viewBox: `0 0 ${size[0]} ${size[1]}`, "aria-hidden": "true" });
    this.broken = el("p", { class: "broken", hidden: true }, "The image cannot be shown. Texts and classes can still be mended.");
    this.image.addEventListener("error", () => (this.broken.hidden = false));
    this.chips = el("div", { class: "chips" });
    this.frame = el("div", { class: "surface" }, this.image, this.broken, this.svg, this.chips);
    this.frame.style.setProperty("--ratio", size[0] / size[1]);
    this.root = el("div", { class: "room" }, this.frame);
    this.zoom = 1;
    this.root.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.root.addEventListener("pointerdown", (event) => event.button === 1 && this.pan(event));
    this.svg.addEventListener("pointerdown", (event) => this.down(event));
    this.svg.addEventListener("pointermove", (event) => this.drag?.(event));
    for (const end of ["pointerup", "pointercancel"]) this.svg.addEventListener(end, (event) => this.up(event));
  }

  // `boxes`: [{id, xyxy, label, kind}], the selected one by its id; `linked` holds the ids a phrase names.
  show(url, boxes, selected, linked) {
    if (url && this.image.getAttribute("src") !== url) this.image.src = url;
    this.boxes = boxes;
    this.selected = selected;
    this.linked = linked;
    this.render();
  }

  render() {
    const ordered = [...this.boxes].sort((a, b) => (a.id === this.selected) - (b.id === this.selected));
    this.svg.replaceChildren(...ordered.map((box) => this.rect(box)), ...this.handles());
    this.chips.replaceChildren(...ordered.map((box) => this.chip(box)));
  }

  rect({ id, xyxy: [x1, y1, x2, y2], kind }) {
    const names = ["box", kind, id === this.selected ? "selected" : "", this.linked?.includes(id) ? "linked" : ""];
    return svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: names.filter(Boolean).join(" "), "data-box": id });
  }

  chip({ id, xyxy: [x1, y1], label, kind }) {
    const node = el("span", { class: `chip ${kind}${id === this.selected ? " selected" : ""}` }, label);
    node.style.left = `${(100 * x1) / this.size[0]}%`;
    node.style.top = `${(100 * y1) / this.size[1]}%`;
    return node;
  }

  handles() {
    const box = this.boxes.find((one) => one.id === this.selected);
    if (!box) return [];
    const [x1, y1, x2, y2] = box.xyxy;
    const [cx, cy] = [(x1 + x2) / 2, (y1 + y2) / 2];
    const places = { nw: [x1, y1], n: [cx, y1], ne: [x2, y1], e: [x2, cy], se: [x2, y2], s: [cx, y2], sw: [x1, y2], w: [x1, cy] };
    return CORNERS.map((name) => svg("circle", { cx: places[name][0], cy: places[name][1], r: 5 / this.scale, class: `handle ${name}`, "data-handle": name }));
  }

  // Zooming and panning: the picture grows within its frame, which scrolls.

  wheel(event) {
    if (event.shiftKey) return; // sideways, by the browser
    event.preventDefault();
    this.magnify(event.deltaY < 0 ? STEP : 1 / STEP, event);
  }

  // By a factor; what is under `clientX`, `clientY` stays there, without them the middle.
  magnify(factor, { clientX, clientY } = {}) {
    const room = this.root.getBoundingClientRect();
    const [x, y] = [clientX ?? room.left + room.width / 2, clientY ?? room.top + room.height / 2];
    const was = this.frame.getBoundingClientRect();
    const [across, down] = [(x - was.left) / was.width, (y - was.top) / was.height];
    this.zoom = Math.min(MOST, Math.max(1, this.zoom * factor));
    this.frame.style.setProperty("--scale", this.zoom);
    const now = this.frame.getBoundingClientRect();
    this.root.scrollLeft += now.left + across * now.width - x;
    this.root.scrollTop += now.top + down * now.height - y;
    this.render();
  }

  pan(event) {
    event.preventDefault();
    const follow = (move) => this.root.scrollBy(-move.movementX, -move.movementY);
    this.root.setPointerCapture(event.pointerId);
    this.root.addEventListener("pointermove", follow);
    this.root.addEventListener("lostpointercapture", () => this.root.removeEventListener("pointermove", follow), { once: true });
  }

  get scale() {
    return (this.svg.getBoundingClientRect().width || this.size[0]) / this.size[0];
  }

  // Pixels of the image, within it.
  point(event) {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.svg.getScreenCTM().inverse());
    return [Math.min(Math.max(0, place.x), this.size[0]), Math.min(Math.max(0, place.y), this.size[1])];
  }

  down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.svg.setPointerCapture(event.pointerId);
    const start = this.point(event);
    const handle = event.target.dataset.handle;
    const hit = handle ? this.boxes.find((box) => box.id === this.selected) : this.hit(start);
    this.stroke = `stroke ${event.timeStamp}`;
    if (this.linked) return hit && this.tell.select(hit.id); // clicks choose the boxes of a phrase, and move nothing
    if (!hit) return this.begin(start);
    if (hit.id !== this.selected) this.tell.select(hit.id);
    this.drag = handle ? this.resizing(hit, handle) : this.moving(hit, start);
  }

  // The selected box if the point is in it, else the smallest one that holds it.
  hit([x, y]) {
    const holding = this.boxes.filter(({ xyxy: [x1, y1, x2, y2] }) => x1 <= x && x <= x2 && y1 <= y && y <= y2);
    const area = ({ xyxy: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    return holding.find((box) => box.id === this.selected) ?? holding.sort((a, b) => area(a) - area(b))[0];
  }

  moving({ id, xyxy: [x1, y1, x2, y2] }, [x, y]) {
    return (event) => {
      const [px, py] = this.point(event);
      const dx = Math.min(Math.max(-x1, px - x), this.size[0] - x2);
      const dy = Math.min(Math.max(-y1, py - y), this.size[1] - y2);
      if (dx || dy) this.tell.change(id, rounded([x1 + dx, y1 + dy, x2 + dx, y2 + dy]), this.stroke);
    };
  }

  resizing({ id, xyxy }, handle) {
    const [x1, y1, x2, y2] = xyxy;
    return (event) => {
      const [px, py] = this.point(event);
      const next = [
        handle.includes("w") ? Math.min(px, x2 - 1) : x1,
        handle.includes("n") ? Math.min(py, y2 - 1) : y1,
        handle.includes("e") ? Math.max(px, x1 + 1) : x2,
        handle.includes("s") ? Math.max(py, y1 + 1) : y2,
      ];
      this.tell.change(id, rounded(next), this.stroke);
    };
  }

  // A new box from here on.
  begin([x, y]) {
    const band = svg("rect", { class: "band" });
    this.svg.append(band);
    this.band = null;
    this.drag = (event) => {
      const [px, py] = this.point(event);
      this.band = rounded([Math.min(x, px), Math.min(y, py), Math.max(x, px), Math.max(y, py)]);
      const [x1, y1, x2, y2] = this.band;
      for (const [name, value] of Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 })) band.setAttribute(name, value);
    };
  }

  up() {
    if (!this.drag) return;
    this.drag = null;
    const drawn = this.band;
    this.band = undefined;
    if (drawn && drawn[2] - drawn[0] >= LEAST && drawn[3] - drawn[1] >= LEAST) this.tell.draw(drawn);
    else if (drawn !== undefined) this.tell.select(null);
  }
}

// Tenths of a pixel: nobody aims better.
function rounded(xyxy) {
  return xyxy.map((value) => Math.round(value * 10) / 10);
}
