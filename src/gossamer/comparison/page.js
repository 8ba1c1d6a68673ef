// Headings of tables sort: numbers best or largest first, then the other way round; what has no value stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  for (const [place, heading] of [...table.tHead.rows[0].cells].entries()) {
    heading.querySelector("button").addEventListener("click", () => sort(table, place, heading));
  }
}

function sort(table, place, heading) {
  const rows = [...table.tBodies[0].rows];
  const value = (row) => row.cells[place].dataset.value;
  const numbers = rows.every((row) => value(row) === undefined || !Number.isNaN(Number(value(row))));
  const before = heading.getAttribute("aria-sort");
  const ascending = before === "none" ? !numbers : before === "descending";
  const sign = ascending ? 1 : -1;
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return sign * (numbers ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true }));
  });
  table.tBodies[0].append(...rows);
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const name = heading.querySelector("button").innerText.replace(/\s+/g, " ").trim();
  document.getElementById("told").textContent = `Sorted by ${name}, ${ascending ? "ascending" : "descending"}`;
}

// On paper nothing can be opened, so everything is, but the long list of cells.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not(#cells details)")) details.open = true;
});
