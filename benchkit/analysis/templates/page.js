// Each part is on its own: where one cannot be drawn, the others and all tables stay.

function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const part = (id, fill) => {
    const root = document.getElementById(id);
    if (root === null) return;
    try {
      fill(root, data);
    } catch (error) {
      root.replaceChildren(h("p", { class: "none" }, "This chart could not be drawn; the tables have its numbers."));
      reportError(error);
    }
  };
  part("theme", theme);
  for (const table of document.querySelectorAll("table.sortable")) sortable(table);
  part("curves-chart", curves);
  part("costs-chart", costs);
  part("calibration-chart", calibration);
}

start();
