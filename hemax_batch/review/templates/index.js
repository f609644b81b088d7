"use strict";
/* Find, filter and sort the slides. */

const table = document.getElementById("slides");
const rows = [...table.tBodies[0].rows];

function show() {
  const text = document.getElementById("find").value.trim().toLowerCase();
  const flagged = document.getElementById("only-flagged").checked;
  let found = 0;
  for (const row of rows) {
    const pass = row.textContent.toLowerCase().includes(text) && (!flagged || row.dataset.flags !== "0");
    row.hidden = !pass;
    found += pass;
  }
  document.getElementById("found").textContent = found < rows.length ? `${found} of ${rows.length} slides` : "";
}

function sortBy(heading) {
  const column = heading.cellIndex;
  const down = heading.getAttribute("aria-sort") === "ascending" || (column > 0 && !heading.hasAttribute("aria-sort"));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value;
  const order = column ? (a, b) => value(a) - value(b) : (a, b) => (value(a) < value(b) ? -1 : 1);
  rows.sort((a, b) => (down ? order(b, a) : order(a, b)));
  table.tBodies[0].append(...rows);
}

document.getElementById("find").addEventListener("input", show);
document.getElementById("only-flagged").addEventListener("change", show);
table.tHead.addEventListener("click", (event) => {
  const heading = event.target.closest("th");
  if (heading?.querySelector("button")) sortBy(heading);
});
