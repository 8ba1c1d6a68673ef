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

// A tap on a picture shows the values of the nearest mark, as a pointer over it does; another one beside it hides them.
const tip = document.getElementById("tip");
addEventListener("click", (event) => {
  tip.hidden = true;
  const picture = event.target.closest("figure svg");
  if (!picture) return;
  const far = (mark) => {
    const box = mark.querySelector(".halo").getBoundingClientRect();
    return Math.hypot(event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2);
  };
  const [near] = [...picture.querySelectorAll(".mark")].sort((a, b) => far(a) - far(b));
  if (!near || far(near) > 24) return;
  tip.textContent = near.querySelector("title").textContent;
  tip.hidden = false;
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
});
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });

// The rows that the page carries, as a file; what has parts is JSON in its field, as in rows.csv.
document.getElementById("save").addEventListener("click", () => {
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const field = (value) => {
    const text = value === null ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const names = Object.keys(rows[0] ?? {});
  const lines = [names, ...rows.map((row) => names.map((name) => row[name]))].map((row) => row.map(field).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  link.download = "rows.csv";
  link.click();
  URL.revokeObjectURL(link.href);
});

// On paper nothing can be opened, so everything is, but the long list of cells.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not(#cells details)")) details.open = true;
});
