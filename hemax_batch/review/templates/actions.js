/* What a reviewer does: decide, undo, sort, filter, export and import. */

/** After any change: cells to their classes, tiles, counts, panel. */
function update(keepOnScreen = chosen) {
  arrangeAround(keepOnScreen); // draws every tile anew
  showCounts();
  showSelection();
}

/** Give the selected cells a class, or approve the ones they have, and go on to the next cell. */
function judge(className) {
  const list = targets();
  if (!list.length) return;
  const changes = markChanges(list.map((index) => [CELLS[index], className ?? classNow(CELLS[index])]));
  const from = CELLS[list[0]];
  const next = nextAfter(list);
  const before = list.length === 1 ? classNow(from) : "";
  carryOut("decision", changes);
  moveTo(next);
  update(next);
  intoView(next);
  tiles.get(next)?.focus({ preventScroll: true });
  const done = className && className !== before ? `${before ? `${words(before)} → ` : ""}${words(className)}` : `${before ? words(before) : "each class"} approved`;
  const who = list.length === 1 ? `Cell ${from.id}` : plural(list.length, "cell");
  say(`${who}: ${done}. ${marks.size} of ${CELLS.length} reviewed.`);
}

/** The cell after those that were decided on. Cells that a decision brought into a class are passed over. */
function nextAfter(list) {
  const isMoved = (cell) => classNow(cell) !== cell.class;
  const below = sequence.slice(placeOf[list.at(-1)] + 1).filter((index) => !selected.has(index));
  return below.find((index) => !isMoved(CELLS[index])) ?? below[0] ?? list.at(-1);
}

function undo() {
  afterStep(undoStep(), "Undone");
}

function redo() {
  afterStep(redoStep(), "Repeated");
}

function afterStep(step, did) {
  if (!step) return say(did === "Undone" ? "Nothing to undo." : "Nothing to repeat.");
  const ids = [...new Set(idsOf(step))];
  const indices = ids.map((id) => INDEX_OF_ID.get(id));
  update();
  const first = indices.find((index) => placeOf[index] >= 0);
  if (first !== undefined) choose(first);
  const what = ids.length === 1 ? `cell ${ids[0]}` : ids.length ? plural(ids.length, "cell") : step.words;
  say(`${did}: ${what}.`);
}

/** Approve all shown, not yet reviewed cells of a class that have no reason for review. */
function approveRest(className) {
  const list = shownOf(className).map((index) => CELLS[index]).filter((cell) => !cell.why && !marks.has(cell.id));
  if (!list.length) return say(`No open ${words(className)} without remarks is shown.`);
  carryOut("decision", markChanges(list.map((cell) => [cell, className])));
  update();
  say(`${plural(list.length, "cell")} approved as ${words(className)}. U takes it back.`);
}

function setOutlines(on) {
  byId("outlines").setAttribute("aria-pressed", on);
  document.body.classList.toggle("outlined", on);
  for (const card of document.querySelectorAll(".card.flipped")) card.classList.remove("flipped");
}

/** Order the cells by their likeness to the chosen one. */
function sortBySimilarity() {
  likeIndex = chosen;
  byId("sort").value = "similarity";
  sortAgain();
  say(`Sorted by likeness to cell ${CELLS[likeIndex].id}.`);
}

function sortAgain() {
  sortCells();
  arrange();
  if (chosen >= 0) intoView(chosen);
  showSelection();
}

function toggleButton(id, then) {
  byId(id).addEventListener("click", () => {
    byId(id).setAttribute("aria-pressed", byId(id).getAttribute("aria-pressed") !== "true");
    then();
  });
}

function resetFilters() {
  byId("f-class").value = byId("f-text").value = "";
  byId("f-review").checked = byId("f-open").checked = byId("f-disputed").checked = false;
  byId("f-below").value = byId("f-below").max;
  showBelow();
}

function showBelow() {
  const value = Number(byId("f-below").value);
  byId("f-below-said").textContent = value > 1 ? "any" : value.toFixed(2);
}

/** Hand a file to the browser's downloads. */
function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function exportReview() {
  if (!reviewerName()) {
    byId("reviewer").focus();
    return say("Who reviewed? A name is part of corrections.csv.");
  }
  if (!marks.size) return say("Nothing is reviewed yet.");
  save("corrections.csv", "text/csv", correctionsCsv());
  say(`corrections.csv: ${plural(marks.size, "cell")}. Next: hemax-batch retally RESULTS --corrections corrections.csv`);
}

/** Take over a file: an earlier corrections.csv, or reference cells. */
async function importFile() {
  const [file] = byId("import").files;
  if (!file) return;
  try {
    if (file.name.endsWith(".json")) await importReferences(file);
    else takeOver(readCorrections(await file.text()), file.name);
  } catch (error) {
    say(`${file.name} was not taken over: ${error.message}.`);
  }
  byId("import").value = "";
}

function takeOver({ reviewer, changes, cells }, name) {
  const here = reviewerName();
  if (here && reviewer && here !== reviewer) throw new Error(`it is ${reviewer}'s, and the reviewer here is ${here}: a review has one`);
  const other = readStored(3 - reader).reviewer.trim();
  if (reviewer && reviewer === other && !signature) throw new Error(`it is of ${other}, the other reader; each reads alone`);
  if (!here) byId("reviewer").value = reviewer;
  carryOut("import", changes);
  update();
  say(`${plural(cells, "cell")} taken over from ${name}. U takes it back.`);
}
