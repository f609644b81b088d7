/* The desk: keys, buttons, filters, the count after review, the map, export and import; and the start of it all. */

const gallery = byId("gallery");

/** After a mark or an undo: cards, counts and progress up to date. */
function update(ids) {
  for (const id of ids) refresh(INDEX_OF_ID.get(id));
  const changed = CELLS.some((cell) => classNow(cell) !== cell.class);
  const counts = tally();
  byId("differential").classList.toggle("reviewed", changed);
  for (const place of document.querySelectorAll("[data-count]")) {
    const n = counts.get(place.dataset.count) ?? 0;
    const before = place.closest("tr").cells[1].textContent;
    place.textContent = n;
    place.classList.toggle("differs", before !== String(n));
  }
  for (const place of document.querySelectorAll("[data-percent]")) {
    const n = counts.get(place.dataset.percent) ?? 0;
    place.textContent = counts.get("white") ? ((100 * n) / counts.get("white")).toFixed(1) : "–";
  }
  for (const row of document.querySelectorAll("tr.added")) row.hidden = !counts.get(row.dataset.row);
  byId("progress").value = marks.size;
  byId("progress-said").textContent = `${marks.size} of ${CELLS.length} reviewed`;
  showChosen();
}

let galleryInSight = false;

/* The dock would only be in the way while the differential is read. */
new IntersectionObserver(
  ([entry]) => {
    galleryInSight = entry.isIntersecting;
    showChosen();
  },
  { rootMargin: "0px 0px -35% 0px" },
).observe(gallery);

/** The dock: which cell keys act on. */
function showChosen() {
  const cell = CELLS[chosen];
  byId("dock").hidden = !cell || !galleryInSight;
  const here = byId("here");
  here.toggleAttribute("hidden", !cell);
  if (!cell) return;
  here.setAttribute("cx", cell.x);
  here.setAttribute("cy", cell.y);
  const was = classNow(cell) === cell.class ? "" : `, was ${words(cell.class)}`;
  byId("chosen").textContent = `Cell ${cell.id}: ${words(classNow(cell))}${was}`;
  for (const button of byId("dock").querySelectorAll("[data-class]")) {
    button.classList.toggle("current", button.dataset.class === classNow(cell));
  }
}

/** Give the chosen cell a class, or approve the one it has, and go on to the next. */
function judge(className) {
  const cell = CELLS[chosen];
  if (!cell) return;
  const after = className ?? classNow(cell);
  markCells([[cell, after]]);
  const here = chosen;
  const next = shown[shown.indexOf(here) + 1];
  if (next !== undefined) choose(next);
  update([cell.id]);
  const did = after === cell.class ? `${words(after)} approved` : `${words(cell.class)} → ${words(after)}`;
  say(`Cell ${cell.id}: ${did}. ${marks.size} of ${CELLS.length} reviewed.`);
}

function undo() {
  const ids = undoStep();
  if (!ids.length) return say("Nothing to undo.");
  const index = INDEX_OF_ID.get(ids[0]);
  if (cards[index].isConnected) choose(index);
  update(ids);
  say(`Undone: ${ids.length === 1 ? `cell ${ids[0]}` : plural(ids.length, "cell")}.`);
}

/** Approve all shown, not yet reviewed cells of a section that have no reason for review. */
function approveRest(className) {
  const list = shown
    .map((index) => CELLS[index])
    .filter((cell) => cell.class === className && !cell.why && !marks.has(cell.id))
    .map((cell) => [cell, cell.class]);
  if (!list.length) return say(`No open ${words(className)} without remarks is shown.`);
  markCells(list);
  update(list.map(([cell]) => cell.id));
  say(`${plural(list.length, "cell")} approved as ${words(className)}; U takes it back.`);
}

function setAllOutlines(on) {
  byId("outlines").setAttribute("aria-pressed", on);
  document.body.classList.toggle("no-outlines", !on);
  for (const card of document.querySelectorAll(".card.flipped")) card.classList.remove("flipped");
}

const allOutlines = () => byId("outlines").getAttribute("aria-pressed") === "true";

/** The shown cell nearest above (-1) or below (+1) the chosen one. */
function neighbourRow(direction) {
  const from = cards[chosen].getBoundingClientRect();
  const middle = from.left + from.width / 2;
  let row = null;
  let best = chosen;
  let distance = Infinity;
  for (let at = shown.indexOf(chosen) + direction; at >= 0 && at < shown.length; at += direction) {
    const rect = cards[shown[at]].getBoundingClientRect();
    if (Math.abs(rect.top - from.top) < 2) continue;
    row ??= rect.top;
    if (Math.abs(rect.top - row) > 2) break;
    const off = Math.abs(rect.left + rect.width / 2 - middle);
    if (off < distance) [best, distance] = [shown[at], off];
  }
  return best;
}

const MOVES = {
  ArrowRight: () => shown[shown.indexOf(chosen) + 1] ?? chosen,
  ArrowLeft: () => shown[shown.indexOf(chosen) - 1] ?? chosen,
  ArrowDown: () => neighbourRow(1),
  ArrowUp: () => neighbourRow(-1),
  Home: () => shown[0],
  End: () => shown.at(-1),
};

const ACTIONS = {
  enter: () => judge(),
  " ": () => judge(),
  u: undo,
  o: () => setAllOutlines(!allOutlines()),
  x: () => cards[chosen].classList.toggle("flipped"),
  "?": () => byId("keys-help").showModal(),
};

/** Keys act only while a cell is focused, so that typing elsewhere never reclassifies anything. */
gallery.addEventListener("keydown", (event) => {
  if (!event.target.classList.contains("card") || event.altKey) return;
  const key = event.key.toLowerCase();
  const undoing = (event.ctrlKey || event.metaKey) && key === "z";
  if ((event.ctrlKey || event.metaKey) && !undoing) return;
  if (undoing) undo();
  else if (MOVES[event.key]) {
    choose(MOVES[event.key]());
    showChosen();
  } else if (ACTIONS[key]) ACTIONS[key]();
  else if (CLASS_OF_KEY.has(key)) judge(CLASS_OF_KEY.get(key));
  else return;
  event.preventDefault();
});

gallery.addEventListener("focusin", (event) => {
  const card = event.target.closest(".card");
  if (!card || Number(card.dataset.index) === chosen) return;
  choose(Number(card.dataset.index), false);
  showChosen();
});

gallery.addEventListener("click", (event) => {
  const rest = event.target.closest("[data-approve]");
  if (rest) return approveRest(rest.dataset.approve);
  const card = event.target.closest(".card");
  if (!card) return;
  choose(Number(card.dataset.index));
  showChosen();
  if (event.target.closest(".picture")) card.classList.toggle("flipped");
});

byId("dock").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.do === "undo") undo();
  else judge(button.dataset.class);
});

/** A click on the map goes to the nearest shown cell. */
byId("map").addEventListener("click", (event) => {
  const map = byId("map");
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
  const far = (index) => Math.hypot(CELLS[index].x - point.x, CELLS[index].y - point.y);
  if (!shown.length) return;
  choose(shown.reduce((best, index) => (far(index) < far(best) ? index : best)));
  showChosen();
});

for (const id of ["f-class", "f-review", "f-open"]) byId(id).addEventListener("change", filter);
for (const id of ["f-below", "f-text"]) byId(id).addEventListener("input", filter);
byId("f-class").addEventListener("change", () => {
  for (const path of document.querySelectorAll(".map .cells")) {
    path.classList.toggle("dim", byId("f-class").value !== "" && byId("f-class").value !== path.dataset.class);
  }
});
byId("f-below").addEventListener("input", () => {
  const value = Number(byId("f-below").value);
  byId("f-below-said").textContent = value > 1 ? "any" : value.toFixed(2);
});
byId("f-reset").addEventListener("click", () => {
  byId("f-class").value = "";
  byId("f-text").value = "";
  byId("f-review").checked = byId("f-open").checked = false;
  byId("f-below").value = byId("f-below").max;
  for (const id of ["f-class", "f-below"]) byId(id).dispatchEvent(new Event(id === "f-class" ? "change" : "input"));
});

byId("outlines").addEventListener("click", () => setAllOutlines(!allOutlines()));
byId("help").addEventListener("click", () => byId("keys-help").showModal());
byId("keys-help").addEventListener("close", () => cards[chosen]?.focus({ preventScroll: true }));
byId("small").addEventListener("click", () => {
  const on = document.body.classList.toggle("small-cards");
  byId("small").setAttribute("aria-pressed", on);
  estimate();
  if (chosen >= 0) intoView(cards[chosen]);
});
byId("reviewer").addEventListener("input", keep);

byId("export").addEventListener("click", () => {
  if (!byId("reviewer").value.trim()) {
    byId("reviewer").focus();
    return say("Who reviewed? A name is part of corrections.csv.");
  }
  if (!marks.size) return say("Nothing was reviewed yet.");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([correctionsCsv()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  say(`corrections.csv: ${plural(marks.size, "cell")}. Next: hemax-batch retally RESULTS --corrections corrections.csv`);
});

byId("import").addEventListener("change", async () => {
  const [file] = byId("import").files;
  if (!file) return;
  try {
    const { found, reviewer } = readCorrections(await file.text());
    const here = byId("reviewer").value.trim();
    if (here && reviewer && here !== reviewer) throw new Error(`it is ${reviewer}'s, and the reviewer here is ${here}: a review has one`);
    markCells(found);
    for (const [cell, after, time] of found) marks.set(cell.id, { after, time });
    if (!byId("reviewer").value) byId("reviewer").value = reviewer;
    update(found.map(([cell]) => cell.id));
    say(`${plural(found.length, "cell")} taken over from ${file.name}; U takes it back.`);
  } catch (error) {
    say(`${file.name} was not taken over: ${error.message}.`);
  }
  byId("import").value = "";
});

/** On paper: every shown card up to a number that a printer can bear. */
const MOST_PRINTED = 300;
addEventListener("beforeprint", () => {
  shown.slice(0, MOST_PRINTED).forEach(fill);
  shown.slice(MOST_PRINTED).forEach((index) => cards[index].classList.add("not-printed"));
  const left = shown.length - MOST_PRINTED;
  byId("print-note").textContent =
    `${marks.size} of ${CELLS.length} cells reviewed${byId("reviewer").value ? ` by ${byId("reviewer").value}` : ""}.` +
    (left > 0 ? ` ${left} more cells are not printed.` : "");
});
addEventListener("afterprint", () => {
  for (const card of document.querySelectorAll(".not-printed")) card.classList.remove("not-printed");
});

addEventListener("resize", estimate);
addEventListener("pagehide", () => keepTimer && keepNow());
/* The same report in another window: its review is this one's too, or the last to be closed would undo the other. */
addEventListener("storage", (event) => {
  if (event.key !== STORE) return;
  const before = [...marks.keys()];
  recall();
  steps.length = 0;
  update([...new Set([...before, ...marks.keys()])]);
});

recall();
makeCards();
filter();
update([...marks.keys()]);
document.documentElement.dataset.ready = "true";
