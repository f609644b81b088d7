/* The review: what the reviewer said of each cell, how to take it back, and where it is kept. */

/** Cell id -> {after: class name, time: ISO 8601 with offset}. A cell without an entry has not been reviewed. */
let marks = new Map();
const steps = []; // what each step replaced, for undo: lists of [cell id, the earlier mark or undefined]
const STORE = `hemax-review:${DATA.sha}`;

const classNow = (cell) => marks.get(cell.id)?.after ?? cell.class;

/** Local time as ISO 8601 with its offset from UTC. */
function timeNow(date = new Date()) {
  const minutes = -date.getTimezoneOffset();
  const two = (n) => String(Math.floor(Math.abs(n))).padStart(2, "0");
  const local = new Date(date.getTime() + minutes * 60000).toISOString().slice(0, 19);
  return `${local}${minutes < 0 ? "-" : "+"}${two(minutes / 60)}:${two(minutes % 60)}`;
}

/** Mark cells as [[cell, class name], ...] in one step that undo takes back at once. */
function markCells(list) {
  const time = timeNow();
  steps.push(list.map(([cell]) => [cell.id, marks.get(cell.id)]));
  for (const [cell, after] of list) marks.set(cell.id, { after, time });
  keep();
}

/** Take the last step back; returns the ids that it concerned, or none. */
function undoStep() {
  const step = steps.pop() ?? [];
  for (const [id, before] of step) {
    if (before) marks.set(id, before);
    else marks.delete(id);
  }
  if (step.length) keep();
  return step.map(([id]) => id);
}

let keepTimer = 0;

/** Keep the review in this browser, soon. Where the browser forbids it, the page says so once and works on. */
function keep() {
  clearTimeout(keepTimer);
  keepTimer = setTimeout(keepNow, 150);
}

let keepsNothing = false;

function keepNow() {
  clearTimeout(keepTimer);
  keepTimer = 0;
  const state = { reviewer: byId("reviewer").value, marks: [...marks].map(([id, m]) => [id, m.after, m.time]) };
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch {
    if (!keepsNothing) say("This browser keeps nothing for this file: export corrections.csv before you close it.");
    keepsNothing = true;
  }
}

/** What was kept of this very result; entries that make no sense are left out. */
function recall() {
  try {
    const state = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    byId("reviewer").value = typeof state.reviewer === "string" ? state.reviewer : "";
    const sound = (state.marks ?? []).filter(([id, after]) => INDEX_OF_ID.has(id) && CLASSES.has(after));
    marks = new Map(sound.map(([id, after, time]) => [id, { after, time: String(time) }]));
  } catch {
    marks = new Map();
  }
}

/** Counts by class after review, of the cells whose place counts: a Map, with "white" and "neutrophils" among them. */
function tally() {
  const counts = new Map([["white", 0], ["neutrophils", 0]]);
  const add = (name) => counts.set(name, (counts.get(name) ?? 0) + 1);
  for (const cell of CELLS) {
    const name = classNow(cell);
    if (cell.out) continue; // it lies where the run did not count, whatever it is
    add(name);
    if (CLASSES.get(name).white) add("white");
    if (name === "band_neutrophil" || name === "segmented_neutrophil") add("neutrophils");
  }
  return counts;
}
