// Zoom and pan of all frames at once, in shares of a picture's size, so that they mean the same for every candidate.

const MOST = 12;
const STEP = 1.2;

export class Lens {
  // Listens on `root`; the views below it follow `--zoom`, `--x` and `--y`.
  constructor(root) {
    this.root = root;
    this.fingers = new Map();
    this.reset();
    root.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    root.addEventListener("dblclick", () => this.reset());
    root.addEventListener("pointerdown", (event) => this.down(event));
    root.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) root.addEventListener(end, (event) => this.fingers.delete(event.pointerId));
  }

  reset() {
    this.set(1, 0, 0);
  }

  set(zoom, x, y) {
    this.at = [zoom, within(x, zoom), within(y, zoom)];
    const [z, left, top] = this.at;
    this.root.style.setProperty("--zoom", z);
    this.root.style.setProperty("--x", `${100 * left}%`);
    this.root.style.setProperty("--y", `${100 * top}%`);
    this.root.classList.toggle("zoomed", z > 1);
  }

  // To the box with some room around it, or back to the whole; false when whole.
  toggle(xyxy, size) {
    if (this.at[0] > 1 || !xyxy) return void this.reset();
    const [x1, y1, x2, y2] = xyxy.map((value, i) => value / size[i % 2]);
    const zoom = Math.max(1, Math.min(MOST, 0.5 / Math.max(x2 - x1, y2 - y1)));
    this.set(zoom, 0.5 - (zoom * (x1 + x2)) / 2, 0.5 - (zoom * (y1 + y2)) / 2);
    return true;
  }

  wheel(event) {
    const place = this.place(event);
    if (!place) return;
    event.preventDefault();
    this.by(event.deltaY < 0 ? STEP : 1 / STEP, place);
  }

  // Zooms by a factor, the point under `place` staying where it is.
  by(factor, [px, py]) {
    const [zoom, x, y] = this.at;
    const next = Math.min(MOST, Math.max(1, zoom * factor));
    this.set(next, px - ((px - x) * next) / zoom, py - ((py - y) * next) / zoom);
  }

  down(event) {
    if (event.button === 0 && !event.target.closest(".divider") && this.place(event)) this.fingers.set(event.pointerId, this.place(event));
  }

  drag(event) {
    const was = this.fingers.get(event.pointerId);
    const now = was && this.place(event);
    if (!now) return;
    const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
    this.fingers.set(event.pointerId, now);
    if (other) return this.by(distance(now, other) / Math.max(distance(was, other), 0.01), other);
    const [zoom, x, y] = this.at;
    this.set(zoom, x + now[0] - was[0], y + now[1] - was[1]);
  }

  // Where in its picture an event is, as shares; null beside all pictures.
  place(event) {
    const fitted = event.target.closest?.(".fitted")?.getBoundingClientRect();
    return fitted ? [(event.clientX - fitted.left) / fitted.width, (event.clientY - fitted.top) / fitted.height] : null;
  }
}

function within(offset, zoom) {
  return Math.min(0, Math.max(1 - zoom, offset));
}

function distance([ax, ay], [bx, by]) {
  return Math.hypot(ax - bx, ay - by);
}
