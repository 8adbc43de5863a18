// Tables with the class `sortable`: a header becomes a button. Rows of a second body (controls) stay at the end.

function sortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    if (header.dataset.sort === undefined) return;
    const button = h("button", { type: "button", onclick: () => sortBy(table, headers, column) });
    button.append(...header.childNodes);
    header.append(button);
    if (!header.hasAttribute("aria-sort")) header.setAttribute("aria-sort", "none");
  });
}

function sortBy(table, headers, column) {
  const numeric = headers[column].dataset.sort === "number";
  const before = headers[column].getAttribute("aria-sort");
  const down = before === "none" ? numeric : before === "ascending";
  headers.forEach((header) => header.hasAttribute("aria-sort") && header.setAttribute("aria-sort", "none"));
  headers[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value ?? (numeric ? "" : row.cells[column].textContent);
  const compare = numeric ? (a, b) => Number(a) - Number(b) : (a, b) => a.localeCompare(b);
  const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
  // What has no number is last, whichever way.
  rows.sort(([a], [b]) => (a === "") - (b === "") || (a === "" ? 0 : compare(a, b) * (down ? -1 : 1)));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
