/* The review: decisions, comments and sign-off, and where the browser keeps them. */

/** Cell id -> {after: class name, time: RFC 3339}. A cell without an entry is not reviewed. */
let marks = new Map();
let comments = new Map(); // cell id -> text
let slideComment = "";
let signature; // {reviewer, time, open: cells that were not reviewed}, once the review is signed off
let reader = 1; // 1 or 2: each reader has a review of their own

const storeOf = (number) => `hemax-review:${DATA.sha}${number === 1 ? "" : `:${number}`}`;
const READER_STORE = `hemax-review-reader:${DATA.sha}`;
const PROGRESS_STORE = `hemax-review-progress:${location.pathname}`; // read by index.html

const classNow = (cell) => marks.get(cell.id)?.after ?? cell.class;
const reviewerName = () => byId("reviewer").value.trim();

/** Local time as RFC 3339 with its offset from UTC. */
function timeNow(date = new Date()) {
  const minutes = -date.getTimezoneOffset();
  const two = (n) => String(Math.floor(Math.abs(n))).padStart(2, "0");
  const local = new Date(date.getTime() + minutes * 60000).toISOString().slice(0, 19);
  return `${local}${minutes < 0 ? "-" : "+"}${two(minutes / 60)}:${two(minutes % 60)}`;
}

/** Changes that give cells a class, from [[cell, class name, time?], ...]. */
function markChanges(list) {
  const now = timeNow();
  return list.map(([cell, after, time = now]) => ({
    what: "mark", key: cell.id, before: marks.get(cell.id), after: { after, time },
  }));
}

let keepTimer = 0;
let keepsNothing = false;

/** Keep the review in this browser, soon. */
function keep() {
  clearTimeout(keepTimer);
  keepTimer = setTimeout(keepNow, 150);
}

function keepNow() {
  clearTimeout(keepTimer);
  keepTimer = 0;
  const state = {
    reviewer: byId("reviewer").value,
    marks: [...marks].map(([id, m]) => [id, m.after, m.time]),
    comments: [...comments],
    slideComment,
    signature,
  };
  const progress = { reviewed: marks.size, cells: CELLS.length, signed: Boolean(signature), reader, time: timeNow() };
  store(storeOf(reader), state);
  store(PROGRESS_STORE, progress);
}

/** Write to the browser's storage. Where the browser forbids it, the page says so once and works on. */
function store(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    if (!keepsNothing) say("This browser keeps nothing for this file. Export corrections.csv before you close it.");
    keepsNothing = true;
    return false;
  }
}

/** Read from the browser's storage; the fallback where there is nothing or no sense in it. */
function stored(key, fallback) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? fallback;
  } catch {
    return fallback;
  }
}

/** The kept review of a reader. Entries that make no sense are left out. */
function readStored(number) {
  const state = stored(storeOf(number), {});
  const list = (value) => (Array.isArray(value) ? value.filter(Array.isArray) : []);
  const known = list(state.marks).filter(([id, after]) => INDEX_OF_ID.has(id) && CLASSES.has(after));
  const told = list(state.comments).filter(([id, text]) => INDEX_OF_ID.has(id) && typeof text === "string");
  return {
    reviewer: typeof state.reviewer === "string" ? state.reviewer : "",
    marks: new Map(known.map(([id, after, time]) => [id, { after, time: String(time) }])),
    comments: new Map(told),
    slideComment: typeof state.slideComment === "string" ? state.slideComment : "",
    signature: typeof state.signature?.time === "string" ? state.signature : undefined,
  };
}

/** Take up the kept review of the present reader. */
function recall() {
  const kept = readStored(reader);
  byId("reviewer").value = kept.reviewer;
  ({ marks, comments, slideComment, signature } = kept);
}

/** Change the reader. The other reader's review is not shown: a second reader is blind to the first. */
function changeReader(number) {
  if (keepTimer) keepNow();
  reader = number;
  store(READER_STORE, reader);
  past.length = future.length = 0;
  recall();
}

/** Cells on which both readers decided, and differently. Empty until both have signed off. */
function disputedCells() {
  const other = readStored(3 - reader);
  if (!signature || !other.signature) return [];
  return CELLS.filter((cell) => {
    const theirs = other.marks.get(cell.id)?.after;
    return theirs && marks.has(cell.id) && theirs !== classNow(cell);
  });
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
