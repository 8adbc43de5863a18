// Quality against size and against time: a mark a head, with its interval.

function costs(root, data) {
  const state = { phase: data.phases[0], task: "mean" };
  const panels = h("div", { class: "panels two" });
  const update = () => panels.replaceChildren(
    costPanel(data, state, "parameters of the head", (each) => [each.parameters, each.parameters, each.parameters], count),
    costPanel(data, state, "training time of a seed", (each) => each.seconds, duration));
  const pick = (name) => (value) => { state[name] = value; update(); };
  const tasks = [["mean", "mean of tasks"], ...data.tasks.map((task) => [task, task])];
  root.append(h("div", { class: "choices" },
    choice("cost-phase", "Phase", data.phases.map((phase) => [phase, phase || "–"]), state.phase, pick("phase")),
    choice("cost-task", "Task", tasks, state.task, pick("task"))), panels);
  update();
}

const count = (value) => value >= 1e6 ? `${+(value / 1e6).toPrecision(2)} M` : value >= 1e3 ? `${+(value / 1e3).toPrecision(2)} k` : String(value);

const ROUND_TIMES = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 240, 480, 900, 1800, 3600, 7200, 14400, 28800, 57600, 115200];

function duration(value) {
  if (value < 60) return `${+value.toPrecision(2)} s`;
  return value < 5400 ? `${+(value / 60).toPrecision(2)} min` : `${+(value / 3600).toPrecision(2)} h`;
}

function costPanel(data, state, title, read, words) {
  const picture = h("div", { class: "picture" });
  const points = data.costs
    .filter((each) => each.phase === state.phase && each.task === state.task && each.score[0] !== null && read(each)[0])
    .map((each) => ({ ...each, cost: read(each) }));
  redraw(picture, (width) => picture.replaceChildren(
    points.length ? drawCosts(data, state, points, title, words, width) : h("p", { class: "none" }, "nothing to show")));
  return h("figure", {}, h("figcaption", {}, `Quality against ${title}`), picture);
}

// Room for each seed and for intervals, but not for those of two seeds, which are wider than what a metric can be.
function qualityRange(points) {
  const seeds = points.flatMap((point) => point.seeds);
  const [low, high] = [Math.min(...seeds), Math.max(...seeds)];
  const room = Math.max(high - low, 0.005);
  const ends = points.filter((point) => point.score[1] !== null);
  const bottom = Math.min(low, Math.max(low - room, ...[Math.min(...ends.map((point) => point.score[1]))].filter(isFinite)));
  const top = Math.max(high, Math.min(high + room, ...[Math.max(...ends.map((point) => point.score[2]))].filter(isFinite)));
  const pad = (top - bottom) * 0.06 || 0.01;
  return [bottom - pad, top + pad];
}

function drawCosts(data, state, points, title, words, width) {
  const height = Math.round(Math.min(Math.max(width * 0.62, 230), 360));
  const box = { width, height, left: 44, right: 14, top: 24, bottom: 38 };
  const spread = points.flatMap((point) => point.cost).filter((value) => value > 0);
  const middle = Math.sqrt(Math.min(...spread) * Math.max(...spread));
  const reach = Math.max(2.5, 1.4 * Math.sqrt(Math.max(...spread) / Math.min(...spread)));
  const x = logarithmic(middle / reach, middle * reach, box.left, width - box.right);
  const round = ROUND_TIMES.filter((time) => time >= x.low && time <= x.high);
  if (words === duration && round.length > 1) x.ticks = round.filter((_, i) => i % Math.ceil(round.length / 6) === 0);
  const y = linear(...qualityRange(points), height - box.bottom, box.top, 5);
  const metric = state.task === "mean" ? "mean of metrics" : data.metrics[state.task];
  const yLabel = `${metric}, ${points[0].split}`;
  const label = `${yLabel} against ${title}, logarithmic: ${points.map((point) =>
    `${data.heads[point.head]} ${show(point.score[0])} at ${words(point.cost[0])}`).join("; ")}`;
  const root = ground({ ...box, x, y, xLabel: `${title}, log scale`, yLabel, xText: words, label });
  for (const point of points) root.append(drawCost(data, point, x, y, words));
  root.append(...names(data, points, x, y, box));
  return root;
}

function drawCost(data, point, x, y, words) {
  const [at, from, to] = point.cost.map((value) => (value > 0 ? x(value) : null));
  const [mean, low, high] = point.score;
  const clip = (value) => Math.min(Math.max(value, y.low), y.high);
  const group = s("g", { class: `point ${shape(data, point.head)}` },
    s("title", {}, `${data.heads[point.head]}: ${show(mean)} (95 % ${show(low)} to ${show(high)}), ${words(point.cost[0])}`));
  if (from !== null && to !== null && from < to) group.append(s("line", { x1: from, x2: to, y1: y(mean), y2: y(mean) }));
  if (low !== null) {
    group.append(s("line", { x1: at, x2: at, y1: y(clip(low)), y2: y(clip(high)) }));
    for (const [end, turn] of [[low, -4], [high, 4]])
      if (clip(end) !== end) group.append(s("path", { d: `M${at - 4} ${y(clip(end)) + turn}L${at} ${y(clip(end))}L${at + 4} ${y(clip(end)) + turn}` }));
  }
  group.append(mark(point.head, data.colours, at, y(mean), 4.5));
  return group;
}

// Names beside their marks, moved down where they would cover each other.
function names(data, points, x, y, box) {
  const placed = [];
  const order = [...points].sort((a, b) => y(a.score[0]) - y(b.score[0]));
  return order.map((point) => {
    const at = x(point.cost[0]);
    const whole = data.heads[point.head];
    const name = whole.length > 22 ? `${whole.slice(0, 21)}…` : whole;
    const length = name.length * 6.6 + 10;
    const left = at + length > box.width - box.right;
    const span = left ? [at - length, at] : [at, at + length];
    let down = y(point.score[0]) - 7;
    for (const [a, b, other] of placed) if (span[0] < b && span[1] > a && Math.abs(down - other) < 13) down = other + 13;
    placed.push([...span, down]);
    return s("text", { class: "label", x: left ? at - 8 : at + 8, y: down, "text-anchor": left ? "end" : "start" }, name);
  });
}
