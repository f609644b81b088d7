/* The grid of cells. Only the rows near the screen are in the document; their places are computed, so nothing jumps. */

const GAP = 3; // px between pictures
const HEADING = 24; // px, height of a class heading
const OVERSCAN = 500; // px drawn above and below the screen
const DETAIL_UM = 3; // glass left round the widest cells

let sizePx = 66; // side of a picture on the screen
let columns = 1;
let rows = []; // from top to bottom: {top, height, group} of a heading, or {top, height, start, end} of cells
let sequence = []; // shown cells in the order of the screen
let placeOf = new Int32Array(CELLS.length).fill(-1); // cell index -> place in `sequence`
const tiles = new Map(); // cell index -> its element, while it is drawn
const rowElements = new Map(); // row number -> its element, while it is drawn

/** Side of the glass that a small picture shows, in µm: one scale for all cells, close round the widest. */
const shownUm = (() => {
  const widths = CELLS.map((cell) => cell.um ?? 0).sort((a, b) => a - b);
  const wide = widths[Math.floor(0.98 * (widths.length - 1))] ?? PICTURE_UM;
  return Math.min(PICTURE_UM, Math.max(14, Math.ceil(wide + DETAIL_UM)));
})();

/** Compute the places of all rows: after a decision, a filter, a sort or a change of size. */
function arrange() {
  const grid = byId("grid");
  columns = Math.max(1, Math.floor((grid.clientWidth - 2 * GAP + GAP) / (sizePx + GAP)));
  rows = [];
  sequence = [];
  let top = GAP;
  for (const group of groupsNow()) {
    if (group.name) {
      rows.push({ top, height: HEADING, group, start: sequence.length, end: sequence.length });
      top += HEADING;
    }
    for (let first = 0; first < group.indices.length; first += columns) {
      const start = sequence.length + first;
      const end = Math.min(start + columns, sequence.length + group.indices.length);
      rows.push({ top, height: sizePx + GAP, start, end });
      top += sizePx + GAP;
    }
    for (const index of group.indices) sequence.push(index);
  }
  placeOf.fill(-1);
  sequence.forEach((index, place) => { placeOf[index] = place; });
  byId("sheet").style.height = `${top + GAP}px`;
  grid.setAttribute("aria-rowcount", rows.length);
  grid.setAttribute("aria-colcount", columns);
  const focused = document.activeElement.classList.contains("card");
  for (const element of rowElements.values()) element.remove();
  rowElements.clear();
  drawRows();
  if (focused) tiles.get(chosen)?.focus({ preventScroll: true }); // a removed element loses the focus
}

/** The number of the row at a height of the sheet. */
function rowAt(y) {
  let [low, high] = [0, rows.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (rows[middle].top <= y) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** The number of the row that holds a place of the sequence. */
function rowOfPlace(place) {
  let [low, high] = [0, rows.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle].end > place) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Draw the rows near the screen, and the row of the chosen cell, which holds the keyboard's focus. */
function drawRows() {
  const grid = byId("grid");
  const wantedRows = new Set();
  if (rows.length) {
    const last = rowAt(grid.scrollTop + grid.clientHeight + OVERSCAN);
    for (let n = rowAt(grid.scrollTop - OVERSCAN); n <= last; n++) wantedRows.add(n);
    if (chosen >= 0 && placeOf[chosen] >= 0) wantedRows.add(rowOfPlace(placeOf[chosen]));
  }
  for (const [n, element] of rowElements) {
    if (wantedRows.has(n)) continue;
    element.remove();
    rowElements.delete(n);
  }
  const fresh = [...wantedRows].filter((n) => !rowElements.has(n)).sort((a, b) => a - b);
  for (const n of fresh) {
    const element = rows[n].group ? headingRow(rows[n]) : cellRow(rows[n]);
    element.style.transform = `translateY(${rows[n].top}px)`;
    element.setAttribute("aria-rowindex", n + 1);
    rowElements.set(n, element);
    byId("sheet").append(element);
  }
  for (const [index, tile] of tiles) if (!tile.isConnected) tiles.delete(index);
}

function cellRow(row) {
  const element = make("div", "row");
  element.setAttribute("role", "row");
  for (let place = row.start; place < row.end; place++) {
    const index = sequence[place];
    const tile = tiles.get(index) ?? makeTile(index);
    tile.setAttribute("aria-colindex", place - row.start + 1);
    tiles.set(index, tile);
    element.append(tile);
    refreshTile(index);
  }
  return element;
}

/** A class heading: sign, words, number, and what can be done with the whole class. */
function headingRow(row) {
  const { name, indices } = row.group;
  const element = make("div", `row heading c-${name}`);
  element.setAttribute("role", "row");
  element.dataset.drop = name;
  const cell = make("div", "heading-cell");
  cell.setAttribute("role", "gridcell");
  cell.append(signOf(name), make("span", "heading-words", words(name)), make("span", "number", String(indices.length)));
  const open = indices.filter((index) => !marks.has(CELLS[index].id)).length;
  cell.append(make("span", "number", open ? `${open} not reviewed` : "all reviewed"));
  if (name !== "unidentified") cell.append(headingButton(name, "approve", "Approve those without remarks"));
  cell.append(headingButton(name, "select", `Select from confidence ${byId("threshold").value}`));
  element.append(cell);
  return element;
}

function headingButton(name, action, text) {
  const button = make("button", "", text);
  button.type = "button";
  button.tabIndex = -1; // the keys Q and Shift+Enter do the same
  button.dataset[action] = name;
  button.setAttribute("aria-label", `${text}: ${words(name)}`);
  return button;
}

function makeTile(index) {
  const tile = make("div", "card");
  tile.id = `cell-${CELLS[index].id}`;
  tile.dataset.index = index;
  tile.setAttribute("role", "gridcell");
  tile.append(make("div", "picture"), make("span", "badge remark"), make("span", "badge state"));
  fillTile(tile, index);
  return tile;
}

/** Give a tile its picture, if the browser has read it from the file. */
function fillTile(tile, index) {
  const looks = looksOf(index);
  tile.classList.toggle("waiting", !looks);
  if (!looks) return;
  const picture = tile.firstChild;
  const img = make("img");
  img.alt = "";
  img.draggable = false;
  if (looks.jpeg) img.src = looks.jpeg;
  else picture.classList.add("missing");
  const from = (PICTURE_UM - shownUm) / 2;
  const outline = draw("svg", { viewBox: `${from} ${from} ${shownUm} ${shownUm}`, "aria-hidden": "true" });
  outline.append(draw("path", { class: "halo", d: looks.cell }), draw("path", { class: "cell", d: looks.cell }));
  outline.append(draw("path", { class: "nucleus", d: looks.nucleus }));
  picture.replaceChildren(img, outline);
}

/** Fill the tiles whose pictures were not read yet. Runs while the browser still reads the file. */
function fillWaiting() {
  for (const [index, tile] of tiles) if (tile.classList.contains("waiting")) fillTile(tile, index);
  showPanel();
  if (document.readyState === "loading") setTimeout(fillWaiting, 60);
}

/** Bring a tile up to date with the review, the selection and the focus. */
function refreshTile(index) {
  const tile = tiles.get(index);
  if (!tile) return;
  const cell = CELLS[index];
  const mark = marks.get(cell.id);
  const changed = Boolean(mark) && mark.after !== cell.class;
  tile.classList.toggle("approved", Boolean(mark) && !changed);
  tile.classList.toggle("changed", changed);
  tile.classList.toggle("out", Boolean(cell.out));
  tile.classList.toggle("chosen", index === chosen);
  tile.tabIndex = index === chosen ? 0 : -1;
  tile.setAttribute("aria-selected", selected.has(index));
  tile.setAttribute("aria-label", spoken(index));
  const remark = `${cell.why ? "⚑" : ""}${comments.has(cell.id) ? "✉" : ""}${references.has(referenceKey(cell)) ? "★" : ""}`;
  tile.querySelector(".remark").textContent = remark;
  const state = tile.querySelector(".state");
  state.replaceChildren(changed ? signOf(cell.class) : "", changed ? "→" : mark ? "✓" : "");
}

/** The name of a cell that a screen reader speaks. */
function spoken(index) {
  const cell = CELLS[index];
  const mark = marks.get(cell.id);
  const state = !mark ? "not reviewed" : mark.after === cell.class ? "approved" : `reclassified from ${words(cell.class)}`;
  const parts = [`Cell ${cell.id}: ${words(classNow(cell))}, confidence ${cell.p.toFixed(2)}, ${state}`];
  if (cell.why) parts.push(`for review: ${cell.why}`);
  if (cell.out) parts.push(`not counted: ${cell.out}`);
  if (comments.has(cell.id)) parts.push(`comment: ${comments.get(cell.id)}`);
  return parts.join("; ");
}

const refreshTiles = () => { for (const index of tiles.keys()) refreshTile(index); };

/** Where a cell lies on the sheet, in px: {left, top, right, bottom}. */
function rectOf(place) {
  const row = rows[rowOfPlace(place)];
  const left = GAP + (place - row.start) * (sizePx + GAP);
  return { left, top: row.top, right: left + sizePx, bottom: row.top + sizePx };
}

/** Scroll so that a cell stands whole in the grid, with its class heading where there is room. */
function intoView(index) {
  if (placeOf[index] < 0) return;
  const grid = byId("grid");
  const { top, bottom } = rectOf(placeOf[index]);
  if (top - HEADING < grid.scrollTop) grid.scrollTop = top - HEADING - GAP;
  else if (bottom > grid.scrollTop + grid.clientHeight) grid.scrollTop = bottom + GAP - grid.clientHeight;
  drawRows();
}

/** Arrange again while the cell that the reviewer looks at stays where it is on the screen. */
function arrangeAround(index) {
  const grid = byId("grid");
  const before = placeOf[index] >= 0 ? rectOf(placeOf[index]).top - grid.scrollTop : null;
  arrange();
  if (before === null || placeOf[index] < 0) return;
  const inside = before > -sizePx && before < grid.clientHeight;
  if (inside) grid.scrollTop = rectOf(placeOf[index]).top - before;
  drawRows();
}

/** Change the size of the pictures. */
function changeSize(px) {
  const slider = byId("size");
  sizePx = Math.min(Number(slider.max), Math.max(Number(slider.min), px));
  slider.value = sizePx;
  document.documentElement.style.setProperty("--size", `${sizePx}px`);
  document.documentElement.style.setProperty("--crop", PICTURE_UM / shownUm);
  arrangeAround(chosen);
  if (chosen >= 0) intoView(chosen);
}
