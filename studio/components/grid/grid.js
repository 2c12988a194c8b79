// Choosing among marked parts: click, Enter or Space; the arrow keys move along.

const PARTS = "[data-pick], [data-turn]";
const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

export function mount(element, trigger, watch) {
  let focused = null;

  function choose(part) {
    if ("turn" in part.dataset) return trigger("turn", { trail: part.dataset.turn });
    for (const other of element.querySelectorAll("[aria-selected='true']")) other.setAttribute("aria-selected", "false");
    part.setAttribute("aria-selected", "true");
    trigger("pick", { id: part.dataset.pick });
  }

  function move(part, step) {
    const parts = [...element.querySelectorAll(PARTS)];
    const next = parts[parts.indexOf(part) + step];
    if (next) next.focus();
  }

  element.addEventListener("click", (event) => {
    const part = event.target.closest(PARTS);
    if (part && !event.target.closest("a")) choose(part);
  });
  element.addEventListener("keydown", (event) => {
    const part = event.target.closest(PARTS);
    if (!part || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in STEPS) move(part, STEPS[event.key]);
    else if (event.key === "Enter" || event.key === " ") choose(part);
    else return;
    event.preventDefault();
  });
  element.addEventListener("focusin", (event) => {
    focused = event.target.dataset?.pick ?? null;
  });

  // A refresh replaces the parts; whoever was on one with the keyboard stays on it.
  watch("value", () => {
    if (focused === null || document.activeElement !== document.body) return;
    element.querySelector(`[data-pick="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  });

  // A text that names boxes lights them up.
  for (const [name, lit] of [["mouseover", true], ["mouseout", false]]) {
    element.addEventListener(name, (event) => {
      const ids = event.target.closest("[data-boxes]")?.dataset.boxes.split(" ") ?? [];
      for (const id of ids) element.querySelector(`[data-box="${CSS.escape(id)}"]`)?.classList.toggle("lit", lit);
    });
  }
}
