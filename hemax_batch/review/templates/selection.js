/* The chosen cell, which has the keyboard's focus, and the selected cells, on which keys act. */

let chosen = -1; // index of the cell with the focus
let previous = -1; // index of the cell that was chosen before
let anchor = -1; // where a selection by Shift begins
const selected = new Set(); // cell indices

/** Choose a cell. `keep`: leave the selection as it is; otherwise this cell alone is selected. */
function choose(index, { focus = true, keep = false } = {}) {
  const before = chosen;
  if (!keep) moveTo(index);
  else if (index !== chosen) [previous, chosen] = [chosen, index];
  if (index >= 0) {
    if (focus) intoView(index);
    else drawRows();
  }
  refreshTiles();
  if (before !== index && before >= 0 && !tiles.has(before)) drawRows();
  if (focus) tiles.get(index)?.focus({ preventScroll: true });
  showSelection();
}

/** Make a cell the chosen and only selected one, without drawing anything. */
function moveTo(index) {
  if (index !== chosen) previous = chosen;
  chosen = anchor = index;
  selected.clear();
  if (index >= 0) selected.add(index);
}

/** Select all cells between the anchor and a cell, in the order of the screen. */
function extendTo(index) {
  const [from, to] = [placeOf[anchor] ?? -1, placeOf[index]].sort((a, b) => a - b);
  if (from < 0) return choose(index);
  selected.clear();
  for (let place = from; place <= to; place++) selected.add(sequence[place]);
  choose(index, { keep: true });
}

/** Add a cell to the selection, or take it out. */
function toggle(index) {
  if (selected.has(index)) selected.delete(index);
  else selected.add(index);
  anchor = index;
  choose(index, { keep: true });
}

/** Select these cells. The first of them in the order of the screen gets the focus where none of them has it. */
function selectAll(indices, focus = true) {
  selected.clear();
  for (const index of indices) selected.add(index);
  if (!indices.length) return choose(chosen, { focus });
  choose(selected.has(chosen) ? chosen : indices[0], { focus, keep: true });
}

const shownOf = (className) => sequence.filter((index) => classNow(CELLS[index]) === className);

/** Select the cells of a class from a confidence on. */
function selectConfident(className) {
  const from = Number(byId("threshold").value);
  const list = shownOf(className).filter((index) => CELLS[index].p >= from);
  if (!list.length) return say(`No ${words(className)} has a confidence of ${from.toFixed(2)} or more.`);
  selectAll(list);
  say(`${plural(list.length, "cell")} of class ${words(className)} selected: confidence ${from.toFixed(2)} or more.`);
}

/** Select the class of the chosen cell; when it is selected already, all cells that are shown. */
function selectClass() {
  if (chosen < 0) return;
  const own = shownOf(classNow(CELLS[chosen]));
  const already = own.length === selected.size && own.every((index) => selected.has(index));
  selectAll(already ? [...sequence] : own);
  say(`${plural(selected.size, "cell")} selected.`);
}

/** The cells on which a decision acts, in the order of the screen. */
function targets() {
  const list = selected.size ? [...selected] : chosen >= 0 ? [chosen] : [];
  return list.filter((index) => placeOf[index] >= 0).sort((a, b) => placeOf[a] - placeOf[b]);
}

/** Where arrow keys lead from the chosen cell. */
const MOVES = {
  ArrowRight: () => sequence[placeOf[chosen] + 1] ?? chosen,
  ArrowLeft: () => sequence[placeOf[chosen] - 1] ?? chosen,
  ArrowDown: () => cellByRows(1),
  ArrowUp: () => cellByRows(-1),
  PageDown: () => cellByRows(rowsOnScreen()),
  PageUp: () => cellByRows(-rowsOnScreen()),
  Home: () => sequence[0] ?? -1,
  End: () => sequence.at(-1) ?? -1,
};

const rowsOnScreen = () => Math.max(1, Math.floor(byId("grid").clientHeight / (sizePx + GAP)) - 1);

/** The cell some rows of cells below (or above) the chosen one, in the same column where there is one. */
function cellByRows(steps) {
  const place = placeOf[chosen];
  if (place < 0) return sequence[0] ?? -1;
  let n = rowOfPlace(place);
  const column = place - rows[n].start;
  let left = Math.abs(steps);
  let best = n;
  while (left && rows[n + Math.sign(steps)]) {
    n += Math.sign(steps);
    if (rows[n].group) continue;
    best = n;
    left--;
  }
  return sequence[Math.min(rows[best].start + column, rows[best].end - 1)];
}

/** The first cell after the chosen one that nobody has decided on; from the start when there is none below. */
function nextOpen() {
  const from = placeOf[chosen] + 1;
  const open = (index) => !marks.has(CELLS[index].id);
  return sequence.slice(from).find(open) ?? sequence.slice(0, from).find(open) ?? -1;
}
