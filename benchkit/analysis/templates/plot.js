// Small helpers that draw: elements, scales, axes, one tooltip. Text is always set as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const h = (name, attributes = {}, ...children) => make(document.createElement(name), attributes, children);
const s = (name, attributes = {}, ...children) => make(document.createElementNS(SVG, name), attributes, children);

const minus = (text) => text.replace("-", "−");
const show = (value) => (value === null ? "–" : minus(value.toFixed(3)));

// 1, 2 or 5 times a power of ten: about `count` steps from low to high.
function step(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw * 0.999);
}

function linear(low, high, from, to, count = 5) {
  if (!(high > low)) [low, high] = [low - 0.05, high + 0.05];
  const by = step(low, high, count);
  const digits = Math.max(0, -Math.floor(Math.log10(by) + 1e-9));
  const ticks = [];
  for (let tick = Math.ceil(low / by - 1e-9); tick * by <= high + by * 1e-9; tick++) ticks.push(tick * by);
  const scale = (value) => from + ((value - low) / (high - low)) * (to - from);
  return Object.assign(scale, { low, high, ticks, label: (value) => minus(value.toFixed(digits)) });
}

function logarithmic(low, high, from, to) {
  const [a, b] = [Math.log10(low), Math.log10(high)];
  const scale = (value) => from + ((Math.log10(value) - a) / (b - a)) * (to - from);
  const ticks = [];
  for (const factors of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]]) {
    ticks.length = 0;
    for (let power = Math.floor(a); power <= b; power++)
      for (const factor of factors) {
        const value = factor * 10 ** power;
        if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
      }
    if (ticks.length >= 3) break;
  }
  return Object.assign(scale, { low, high, ticks });
}

// A chart's ground: grid, axes and their words. `x` and `y` come with ticks; returns an <svg> to draw into.
function ground({ width, height, x, y, left, bottom, top, right, xLabel, yLabel, label, xText, yText }) {
  const root = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  const grid = s("g", { class: "grid" });
  const text = s("g", { class: "axis" });
  for (const tick of y.ticks) {
    grid.append(s("line", { x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    text.append(s("text", { x: left - 6, y: y(tick), dy: "0.32em", "text-anchor": "end" }, (yText || y.label)(tick)));
  }
  for (const tick of x.ticks) {
    const at = x(tick);
    grid.append(s("line", { x1: at, x2: at, y1: height - bottom, y2: height - bottom + 4, class: "tick" }));
    text.append(s("text", { x: at, y: height - bottom + 17, "text-anchor": "middle" }, (xText || x.label)(tick)));
  }
  grid.append(s("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "base" }));
  const middle = (left + width - right) / 2;
  text.append(s("text", { x: middle, y: height - 4, "text-anchor": "middle", class: "name" }, xLabel));
  if (yLabel) text.append(s("text", { x: 0, y: top - 9, class: "name" }, yLabel));
  root.append(grid, text);
  return root;
}

// A circle in the first round of colours, a square in the second, a diamond after that.
function mark(index, colours, x, y, size) {
  const kind = Math.floor(index / colours) % 3;
  const d = size * (kind === 1 ? 0.88 : 1.2);
  if (kind === 0) return s("circle", { cx: x, cy: y, r: size });
  if (kind === 1) return s("rect", { x: x - d, y: y - d, width: 2 * d, height: 2 * d });
  return s("path", { d: `M${x} ${y - d}L${x + d} ${y}L${x} ${y + d}L${x - d} ${y}Z` });
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

// One choice of several, as radio buttons; `change` gets the chosen value.
function choice(name, title, options, value, change) {
  const buttons = options.map(([key, text]) =>
    h("label", {},
      h("input", { type: "radio", name, value: key, checked: key === value, onchange: () => change(key) }),
      h("span", {}, text)));
  return h("fieldset", { class: "choice", hidden: options.length < 2 }, h("legend", {}, title), ...buttons);
}

// Call `draw` now, and again when the width of `node` changes, which on paper it does not.
function redraw(node, draw) {
  let width = 0;
  const look = () => {
    const now = Math.floor(node.clientWidth);
    if (now > 0 && now !== width) draw((width = now));
  };
  new ResizeObserver(look).observe(node);
  look();
  return () => draw(width);
}
