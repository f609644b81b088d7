/* The review desk: which control does what, and the start of it all. */

/* The grid */

byId("grid").addEventListener("scroll", drawRows, { passive: true });
new ResizeObserver(() => {
  if (byId("grid").clientHeight) arrangeAround(chosen);
}).observe(byId("grid"));
byId("grid").addEventListener("pointerdown", startDrag);
byId("grid").addEventListener("pointermove", (event) => drag || hover(event));
/* A fast drag leaves the grid before its first move. */
document.addEventListener("pointermove", moveDrag);
document.addEventListener("pointerup", endDrag);
document.addEventListener("pointercancel", stopDrag);
byId("grid").addEventListener("dblclick", (event) => event.target.closest(".card") && openZoom());
byId("grid").addEventListener("keydown", (event) => {
  hovered = -1;
  if (event.target.classList.contains("card") && actOnKey(event)) event.preventDefault();
});
byId("grid").addEventListener("focusin", (event) => {
  const card = event.target.closest(".card");
  if (card && !drag && Number(card.dataset.index) !== chosen) choose(Number(card.dataset.index), { focus: false });
  byId("desk").scrollIntoView({ block: "nearest" });
});
byId("grid").addEventListener("click", (event) => {
  const { approve, select } = event.target.closest("button")?.dataset ?? {};
  if (approve) approveRest(approve);
  if (select) selectConfident(select);
  /* A touch has no drag: it only chooses. */
  const card = event.target.closest(".card");
  if (card && event.pointerType === "touch") choose(Number(card.dataset.index));
});
byId("grid").addEventListener("pointerleave", () => {
  hovered = -1;
  showPanel();
});

/* The list of classes */

byId("classes").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) judge(button.dataset.class);
});
byId("classes").addEventListener("keydown", (event) => moveInList(event, byId("classes")));

/* The bar */

for (const id of ["f-class", "f-review", "f-open", "f-disputed"]) byId(id).addEventListener("change", filter);
for (const id of ["f-below", "f-text"]) byId(id).addEventListener("input", filter);
byId("f-text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === "Escape") tiles.get(chosen)?.focus();
});
byId("f-class").addEventListener("change", () => {
  for (const path of document.querySelectorAll(".map .cells")) {
    path.classList.toggle("dim", byId("f-class").value !== "" && byId("f-class").value !== path.dataset.class);
  }
});
byId("f-below").addEventListener("input", showBelow);
byId("f-reset").addEventListener("click", () => {
  resetFilters();
  filter();
});
byId("sort").addEventListener("change", () => {
  likeIndex = -1;
  sortAgain();
});
toggleButton("sort-down", sortAgain);
toggleButton("by-class", sortAgain);
byId("size").addEventListener("input", () => changeSize(Number(byId("size").value)));
byId("threshold").addEventListener("change", () => arrangeAround(chosen));
byId("undo").addEventListener("click", undo);
byId("redo").addEventListener("click", redo);
byId("compare").addEventListener("click", openCompare);
byId("outlines").addEventListener("click", () => setOutlines(!byId("outlines").matches("[aria-pressed=true]")));
byId("help").addEventListener("click", () => byId("keys-help").showModal());
byId("print").addEventListener("click", printReport);
byId("reviewer").addEventListener("input", keep);
byId("reader").addEventListener("change", () => {
  changeReader(Number(byId("reader").value));
  filter();
  update();
  say(reader === 2 ? "Second reader: the first reader's decisions are not shown." : "First reader.");
  showBlind();
});
byId("export").addEventListener("click", exportReview);
byId("import").addEventListener("change", importFile);
byId("export-references").addEventListener("click", exportReferences);

/* Comments and dialogs */

let commented = null; // the cell whose comment is being typed
byId("comment").addEventListener("focus", () => { commented = CELLS[chosen]; });
byId("comment").addEventListener("blur", () => {
  const cell = commented;
  commented = null;
  if (cell) keepComment(cell, byId("comment").value);
});
byId("comment").addEventListener("keydown", (event) => {
  if (event.key === "Escape") byId("comment").value = comments.get(commented?.id) ?? "";
  if (event.key === "Escape" || (event.key === "Enter" && !event.shiftKey)) {
    event.preventDefault();
    tiles.get(chosen)?.focus();
  }
});
byId("slide-comment").addEventListener("click", showSlideComment);
byId("slide-dialog").addEventListener("close", keepSlideComment);
byId("sign").addEventListener("click", showSignOff);
byId("sign-confirm").addEventListener("click", signOff);
byId("sign-withdraw").addEventListener("click", withdrawSignature);
byId("zoom").addEventListener("keydown", (event) => {
  if (event.target.closest("button") && [" ", "Enter"].includes(event.key)) return;
  if (actOnKey(event)) event.preventDefault();
});
byId("zoom-compare").addEventListener("click", openCompare);
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("close", () => tiles.get(chosen)?.focus({ preventScroll: true }));
}

/** A click on the map goes to the nearest shown cell. */
byId("map").addEventListener("click", (event) => {
  const map = byId("map");
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
  const far = (index) => Math.hypot(CELLS[index].x - point.x, CELLS[index].y - point.y);
  if (!sequence.length) return;
  choose(sequence.reduce((best, index) => (far(index) < far(best) ? index : best)));
});

/** What an earlier review decided stays hidden from a second reader until the sign-off. */
function showBlind() {
  document.body.classList.toggle("blind", reader === 2 && !signature);
}

addEventListener("beforeprint", preparePrint);
addEventListener("afterprint", () => byId("paper").replaceChildren());
addEventListener("pagehide", () => keepTimer && keepNow());
/* The same report in another window: its review is this one's too, or the last to be closed would undo the other. */
addEventListener("storage", (event) => {
  if (event.key === REFERENCE_STORE) {
    references = new Map(stored(REFERENCE_STORE, []).filter(isReference).map((entry) => [entry.key, entry]));
    return update();
  }
  if (event.key !== storeOf(reader)) return;
  recall();
  past.length = future.length = 0;
  update();
});

reader = stored(READER_STORE, 1) === 2 ? 2 : 1;
byId("reader").value = reader;
recall();
changeSize(sizePx);
sortCells();
filter();
update();
showBlind();
fillWaiting();
document.documentElement.dataset.ready = "true";
