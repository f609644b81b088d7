/* The mouse on the grid: a click chooses, a drag from a cell moves cells to a class, any other drag selects a rectangle. */

let drag = null; // {x, y, startX, startY, index, mode: "" | "move" | "rectangle", kept: Set}
const DRAG_PX = 5;

/** A point of the screen as a point of the sheet. */
function onSheet(event) {
  const box = byId("sheet").getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

function startDrag(event) {
  if (event.button !== 0 || event.pointerType === "touch" || event.target.closest("button")) return;
  const grid = byId("grid");
  if (event.target === grid && event.offsetX >= grid.clientWidth) return; // the scroll bar
  const index = Number(event.target.closest(".card")?.dataset.index ?? -1);
  drag = { ...onSheet(event), clientX: event.clientX, clientY: event.clientY, index, mode: "", pointer: event.pointerId };
}

function moveDrag(event) {
  if (!drag) return;
  [drag.nowX, drag.nowY] = [event.clientX, event.clientY];
  if (!drag.mode) {
    if (Math.hypot(event.clientX - drag.clientX, event.clientY - drag.clientY) < DRAG_PX) return;
    beginDrag(event);
  }
  if (drag.mode === "move") showDrop();
  else drawRectangle();
}

function beginDrag(event) {
  drag.mode = drag.index >= 0 && !event.shiftKey ? "move" : "rectangle";
  drag.kept = event.ctrlKey || event.metaKey ? new Set(selected) : new Set();
  byId("grid").setPointerCapture(drag.pointer);
  if (drag.mode === "move" && !selected.has(drag.index)) choose(drag.index);
  document.body.classList.add("dragging");
  requestAnimationFrame(scrollWhileDragging);
}

/** The class under the pointer: a class of the list, a heading, or the class of another cell. */
function dropClass() {
  const under = document.elementFromPoint(drag.nowX, drag.nowY);
  const named = under?.closest("[data-drop]")?.dataset.drop;
  if (named !== undefined) return named;
  const card = under?.closest(".card");
  return card && !selected.has(Number(card.dataset.index)) ? classNow(CELLS[Number(card.dataset.index)]) : "";
}

function showDrop() {
  const name = dropClass();
  const ghost = byId("ghost");
  ghost.hidden = false;
  ghost.style.transform = `translate(${drag.nowX + 12}px, ${drag.nowY + 12}px)`;
  ghost.textContent = `${plural(targets().length, "cell")}${name ? ` → ${words(name)}` : ""}`;
  for (const place of document.querySelectorAll("[data-drop]")) {
    place.classList.toggle("drop", Boolean(name) && place.dataset.drop === name);
  }
}

/** Draw the rectangle and select the cells that it touches. */
function drawRectangle() {
  const box = byId("sheet").getBoundingClientRect();
  const [x, y] = [drag.nowX - box.left, drag.nowY - box.top];
  const [left, right] = [Math.min(x, drag.x), Math.max(x, drag.x)];
  const [top, bottom] = [Math.min(y, drag.y), Math.max(y, drag.y)];
  const lasso = byId("lasso");
  lasso.hidden = false;
  Object.assign(lasso.style, { transform: `translate(${left}px, ${top}px)`, width: `${right - left}px`, height: `${bottom - top}px` });
  selected.clear();
  for (const index of drag.kept) selected.add(index);
  for (let n = rowAt(top); n < rows.length && rows[n].top < bottom; n++) {
    if (rows[n].group || rows[n].top + sizePx < top) continue;
    for (let place = rows[n].start; place < rows[n].end; place++) {
      const at = GAP + (place - rows[n].start) * (sizePx + GAP);
      if (at < right && at + sizePx > left) selected.add(sequence[place]);
    }
  }
  refreshTiles();
  showSelection();
}

/** Scroll while the pointer is held above or below the grid. */
function scrollWhileDragging() {
  if (!drag?.mode) return;
  const box = byId("grid").getBoundingClientRect();
  const over = drag.nowY < box.top + 20 ? drag.nowY - box.top - 20 : Math.max(0, drag.nowY - box.bottom + 20);
  if (over) {
    byId("grid").scrollTop += over / 3;
    if (drag.mode === "rectangle") drawRectangle();
  }
  requestAnimationFrame(scrollWhileDragging);
}

function endDrag(event) {
  if (!drag) return;
  const { mode, index } = drag;
  const name = mode === "move" ? dropClass() : "";
  stopDrag();
  if (!mode && index >= 0) clickCell(index, event);
  else if (mode === "move" && name) judge(name);
  else if (mode === "rectangle") {
    const first = targets()[0];
    if (first !== undefined) choose(first, { keep: true });
    anchor = chosen;
    say(`${plural(selected.size, "cell")} selected.`);
  }
}

/** Leave the drag without an effect. */
function stopDrag() {
  drag = null;
  byId("ghost").hidden = byId("lasso").hidden = true;
  document.body.classList.remove("dragging");
  for (const place of document.querySelectorAll(".drop")) place.classList.remove("drop");
}

function clickCell(index, event) {
  if (event.shiftKey) extendTo(index);
  else if (event.ctrlKey || event.metaKey) toggle(index);
  else choose(index);
}
