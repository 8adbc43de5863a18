// Scores against labels, and how far stated confidence can be believed: a panel a head.

function calibration(root, data) {
  if (!data.calibration.length) return root.append(h("p", { class: "none" }, "no predictions are stored"));
  const state = { task: data.calibration.find((each) => !each.classes)?.task ?? data.calibration[0].task };
  const note = h("p", { class: "note" });
  const panels = h("div", { class: "panels small" });
  const update = () => {
    const about = data.calibration.find((each) => each.task === state.task);
    note.textContent = calibrationNote(about);
    panels.replaceChildren(...about.heads.map((each) => calibrationPanel(data, about, each)));
  };
  const tasks = data.calibration.map((each) => [each.task, each.task]);
  const pick = (value) => { state.task = value; update(); };
  root.append(h("div", { class: "choices" }, choice("calibration", "Task", tasks, state.task, pick)), note, panels);
  update();
}

function calibrationNote(about) {
  const on = `${about.examples.toLocaleString("en")} examples of ${about.split}`;
  if (about.classes)
    return `${on}, all seeds. Below the diagonal a head is surer than it should be. Marks are as large as their share ` +
      "of the examples. ECE is the expected calibration error: the mean distance from the diagonal, ± std over seeds.";
  const drawn = about.labels.length < about.examples ? `, of which ${about.labels.length} are drawn` : "";
  return `${on}${drawn}. Dots: the mean prediction over seeds. Line: the mean label of what was given such a score; on ` +
    "the diagonal a head can be taken at its word. RMSE is the root mean square error, ± std over seeds.";
}

function calibrationPanel(data, about, each) {
  const picture = h("div", { class: "picture" });
  const [mean, std] = each.error;
  const error = `${about.classes ? "ECE" : "RMSE"} ${show(mean)}${std === null ? "" : ` ± ${std.toFixed(3)}`}`;
  redraw(picture, (width) => picture.replaceChildren(drawCalibration(data, about, each, Math.min(width, 340))));
  return h("figure", {}, h("figcaption", {}, swatch(data, each.head),
    h("span", { class: "name" }, data.heads[each.head]), h("small", {}, error)), picture);
}

function drawCalibration(data, about, each, width) {
  const box = { width, height: width, left: 34, right: 8, top: 8, bottom: 38 };
  const [low, high] = about.range;
  const pad = (high - low) * 0.03;
  const x = linear(low - pad, high + pad, box.left, width - box.right, 5);
  const y = linear(low - pad, high + pad, width - box.bottom, box.top, 5);
  const inside = (value) => Math.min(Math.max(value, low - pad), high + pad);
  const xLabel = about.classes ? "stated probability" : "predicted score";
  const label = `${data.heads[each.head]} on ${about.task}: ${about.classes ? "share that is right" : "label"} by ${xLabel}: ` +
    each.bins.map(([a, b]) => `${a.toFixed(2)} ${b.toFixed(2)}`).join("; ");
  const root = ground({ ...box, x, y, xLabel, label });
  root.append(s("line", { class: "diagonal", x1: x(low), y1: y(low), x2: x(high), y2: y(high) }));
  const dots = each.said.map((said, i) => `M${x(inside(said)).toFixed(1)} ${y(about.labels[i]).toFixed(1)}h0`).join("");
  root.append(s("path", { class: `dots s${each.head % data.colours}`, d: dots }));
  const line = s("g", { class: `line dev ${shape(data, each.head)}` },
    s("path", { d: path(each.bins.map(([a, b]) => [x(inside(a)), y(inside(b))])) }));
  for (const [a, b, share] of each.bins) {
    const dot = mark(each.head, data.colours, x(inside(a)), y(inside(b)), 2 + 7 * Math.sqrt(share));
    dot.append(s("title", {}, `${a.toFixed(3)} → ${b.toFixed(3)}, ${(100 * share).toFixed(1)} % of examples`));
    line.append(dot);
  }
  root.append(line);
  return root;
}
