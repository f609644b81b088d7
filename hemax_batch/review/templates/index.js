"use strict";
/* The worklist: find, filter and sort the slides, and show what this browser keeps of their reviews. */

const table = document.getElementById("slides");
const rows = [...table.tBodies[0].rows];
const control = (id) => document.getElementById(id);

function show() {
  const text = control("find").value.trim().toLowerCase();
  const [urgency, state] = [control("urgency").value, control("state").value];
  const only = { flags: control("only-flagged").checked, out: control("only-out").checked, short: control("only-short").checked };
  let found = 0;
  for (const row of rows) {
    const { flags, out, short } = row.dataset;
    const pass =
      row.textContent.toLowerCase().includes(text) &&
      (!urgency || row.dataset.urgency === urgency) &&
      (!state || row.dataset.state === state) &&
      (!only.flags || flags !== "0") && (!only.out || Boolean(out)) && (!only.short || Boolean(short));
    row.hidden = !pass;
    found += pass;
  }
  control("found").textContent = found < rows.length ? `${found} of ${rows.length} slides` : "";
}

/** A review that is under way in this browser and not tallied yet. */
function showProgress() {
  for (const row of rows) {
    const { href, cells, state } = row.dataset;
    if (!href || state === "signed off") continue;
    const kept = progressOf(new URL(href, location.href).pathname);
    if (!kept || String(kept.cells) !== cells || !(kept.reviewed > 0)) continue;
    row.querySelector(".here").textContent = `in this browser: ${kept.reviewed} of ${cells}${kept.signed ? ", signed off" : ""}`;
    if (state === "not reviewed") {
      row.dataset.state = "in review";
      row.querySelector(".state").textContent = "in review";
    }
  }
}

function progressOf(path) {
  try {
    return JSON.parse(localStorage.getItem(`hemax-review-progress:${path}`));
  } catch {
    return null;
  }
}

function sortBy(heading) {
  const column = heading.cellIndex;
  const up = column <= 1; // slide and urgency begin with the first
  const before = heading.getAttribute("aria-sort");
  const down = before ? before === "ascending" : !up;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value;
  const order = column ? (a, b) => value(a) - value(b) : (a, b) => (value(a) < value(b) ? -1 : 1);
  rows.sort((a, b) => (down ? order(b, a) : order(a, b)));
  table.tBodies[0].append(...rows);
}

control("find").addEventListener("input", show);
for (const id of ["urgency", "state", "only-flagged", "only-out", "only-short"]) control(id).addEventListener("change", show);
table.tHead.addEventListener("click", (event) => {
  const heading = event.target.closest("th");
  if (heading?.querySelector("button")) sortBy(heading);
});
addEventListener("storage", showProgress);
showProgress();
