// Elements from data. Data becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const PAINTED = 100; // ms after which a frame is taken for painted, however busy the browser is

// Does some work once what was changed has been painted. Safari does not say when it is idle.
export function afterPaint(work) {
  const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 10));
  requestAnimationFrame(() => idle(() => work(), { timeout: PAINTED }));
}
