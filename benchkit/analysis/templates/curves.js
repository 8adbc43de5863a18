// Training curves: a panel a task; which phase, number, splits and heads is the reader's choice.

function curves(root, data) {
  const state = { phase: data.phases[0], task: "", what: "value", split: "dev", off: new Set() };
  const panels = h("div", { class: "panels" });
  const update = () => panels.replaceChildren(...shownTasks().map((task) => curvePanel(data, state, task)));
  const shownTasks = () => data.tasks.filter((task) => state.task === "" || task === state.task);
  const pick = (name) => (value) => { state[name] = value; update(); };
  const tasks = data.tasks.map((task) => [task, task]);
  root.append(
    h("div", { class: "choices" },
      choice("phase", "Phase", data.phases.map((phase) => [phase, phase || "–"]), state.phase, pick("phase")),
      choice("task", "Task", tasks.length > 1 ? [["", "all"], ...tasks] : [], state.task, pick("task")),
      choice("what", "Show", [["value", "metric"], ["loss", "loss"]], state.what, pick("what")),
      choice("split", "Split", [["dev", "dev"], ["train", "train"], ["both", "both"]], state.split, pick("split"))),
    headToggles(data, state, update), panels);
  update();
}

function headToggles(data, state, update) {
  const toggle = (index, on) => { state.off[on ? "delete" : "add"](index); update(); };
  const boxes = data.heads.map((name, index) =>
    h("label", {},
      h("input", { type: "checkbox", checked: true, onchange: (event) => toggle(index, event.target.checked) }),
      swatch(data, index), h("span", { class: "name" }, name)));
  const all = (on) => () => {
    boxes.forEach((box, index) => { box.firstChild.checked = on; state.off[on ? "delete" : "add"](index); });
    update();
  };
  const buttons = ["all", "none"].map((text) => h("button", { type: "button", onclick: all(text === "all") }, text));
  return h("fieldset", { class: "toggles" }, h("legend", {}, "Heads"), ...boxes,
    h("span", { class: "both", hidden: data.heads.length < 4 }, ...buttons));
}

const shape = (data, index) => `s${index % data.colours} m${Math.floor(index / data.colours) % 3}`;
const swatch = (data, index) => h("i", { class: `key ${shape(data, index)}`, "aria-hidden": "true" });

function curvePanel(data, state, task) {
  const lines = data.curves.filter((line) =>
    line.phase === state.phase && line.task === task && !state.off.has(line.head) &&
    (state.split === "both" || line.split === state.split));
  const title = `${task} · ${state.what === "value" ? data.metrics[task] : "loss"}`;
  const picture = h("div", { class: "picture" });
  const tip = h("output", { class: "tip", hidden: true });
  const panel = h("figure", {}, h("figcaption", {}, title), picture, tip);
  const control = state.split === "train" ? undefined : data.controls.find((each) => each.task === task);
  const draw = (width) => picture.replaceChildren(
    lines.length ? drawCurves(data, state, task, lines, control, width, tip) : h("p", { class: "none" }, "nothing to show"));
  redraw(picture, draw);
  return panel;
}

function drawCurves(data, state, task, lines, control, width, tip) {
  const what = state.what;
  const height = Math.round(Math.min(Math.max(width * 0.62, 210), 380));
  const box = { width, height, left: 44, right: 10, top: 12, bottom: 38 };
  const values = lines.flatMap((line) => line[what].flat()).filter((value) => value !== null);
  const epochs = lines.flatMap((line) => line.epochs);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const pad = (high - low) * 0.04 || 0.01;
  const first = Math.min(...epochs), last = Math.max(...epochs);
  const x = linear(first === last ? first - 1 : first, first === last ? last + 1 : last, box.left + 4, width - box.right - 4, 5);
  x.ticks = x.ticks.filter((tick) => Number.isInteger(tick) && tick >= first && tick <= last);
  const y = linear(low - pad, high + pad, height - box.bottom, box.top, 5);
  const label = `${task}, ${state.phase}: ${what === "value" ? data.metrics[task] : "loss"} by epoch. Arrow keys read values.`;
  const root = ground({ ...box, x, y, xLabel: "epoch", xText: (tick) => String(tick), label });
  const level = control && (what === "value" ? control.value : control.loss);
  if (level !== undefined && level !== null && level >= y.low && level <= y.high)
    root.append(
      s("line", { class: "control", x1: box.left, x2: width - box.right, y1: y(level), y2: y(level) }),
      s("text", { class: "control-name", x: width - box.right, y: y(level) - 4, "text-anchor": "end" }, control.name));
  for (const line of lines) root.append(drawBand(line, data.colours, what, x, y));
  for (const line of lines) root.append(drawLine(data, line, what, x, y));
  reading(root, data, state, lines, x, box, tip);
  return root;
}

const drawn = (line, what, x, y, row) =>
  line.epochs.map((epoch, i) => [x(epoch), line[what][row][i]]).filter(([, value]) => value !== null)
    .map(([at, value]) => [at, y(value)]);

function drawBand(line, colours, what, x, y) {
  const band = [...drawn(line, what, x, y, 1), ...drawn(line, what, x, y, 2).reverse()];
  return s("path", { class: `band s${line.head % colours}`, d: band.length > 2 ? path(band) + "Z" : "" });
}

function drawLine(data, line, what, x, y) {
  const points = drawn(line, what, x, y, 0);
  const every = Math.ceil(points.length / 10);
  const marked = line.head >= data.colours || points.length === 1;
  const marks = points.filter((_, i) => marked && i % every === 0).map(([a, b]) => mark(line.head, data.colours, a, b, 3));
  return s("g", { class: `line ${shape(data, line.head)} ${line.split}`, "data-head": data.heads[line.head] },
    s("path", { d: path(points) }), ...marks);
}

// The values of one epoch, by pointer, touch or arrow keys.
function reading(root, data, state, lines, x, box, tip) {
  const epochs = [...new Set(lines.flatMap((line) => line.epochs))].sort((a, b) => a - b);
  const rule = s("line", { class: "rule", y1: box.top, y2: box.height - box.bottom, visibility: "hidden" });
  root.append(rule);
  let at = -1;
  const tell = (index) => {
    at = Math.min(Math.max(index, 0), epochs.length - 1);
    const here = x(epochs[at]);
    rule.setAttribute("x1", here);
    rule.setAttribute("x2", here);
    rule.setAttribute("visibility", "visible");
    tip.replaceChildren(tipTable(data, state, lines, epochs[at]));
    tip.hidden = false;
    const [full, own] = [box.width, tip.offsetWidth];
    tip.style.left = `${Math.max(0, Math.min(here > full / 2 ? here - own - 10 : here + 10, full - own))}px`;
  };
  const hide = () => { tip.hidden = true; rule.setAttribute("visibility", "hidden"); };
  const follow = (event) => {
    const seen = root.getBoundingClientRect();
    const px = ((event.clientX - seen.left) * box.width) / seen.width;
    const near = epochs.map((epoch) => Math.abs(x(epoch) - px));
    tell(near.indexOf(Math.min(...near)));
  };
  const keys = { ArrowLeft: () => at - 1, ArrowRight: () => at + 1, Home: () => 0, End: () => epochs.length - 1 };
  root.setAttribute("tabindex", "0");
  for (const name of ["pointermove", "pointerdown"]) root.addEventListener(name, follow);
  for (const name of ["pointerleave", "blur"]) root.addEventListener(name, hide);
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    if (!(event.key in keys)) return;
    event.preventDefault();
    tell(keys[event.key]());
  });
}

function tipTable(data, state, lines, epoch) {
  const rows = lines.filter((line) => line.epochs.includes(epoch)).map((line) => {
    const [mean, low, high] = line[state.what].map((row) => row[line.epochs.indexOf(epoch)]);
    return { line, mean, low, high };
  });
  rows.sort((a, b) => (state.what === "value" ? b.mean - a.mean : a.mean - b.mean));
  return h("table", {}, h("caption", {}, `epoch ${epoch}`), h("tbody", {}, ...rows.map(({ line, mean, low, high }) =>
    h("tr", {}, h("th", { scope: "row" }, swatch(data, line.head), h("span", { class: "name" }, data.heads[line.head])),
      h("td", {}, state.split === "both" ? line.split : ""), h("td", { class: "n" }, show(mean)),
      h("td", { class: "n range" }, line.seeds > 1 ? `${show(low)} – ${show(high)}` : "")))));
}
