/* Which cells are shown, and in which order: filters, sort and classes. */

let order = CELLS.map((_, index) => index); // all cells in the chosen order
let passing = new Set(order); // those that pass the filters
let likeIndex = -1; // the cell to which "similarity" compares

/** Cell vectors for similarity, a signed byte a dimension (review/similarity.py). */
const VECTORS = (() => {
  const bytes = Uint8Array.from(atob(DATA.vectors.data), (c) => c.charCodeAt(0));
  return new Int8Array(bytes.buffer);
})();

/** Squared distance of the looks of two cells. */
function distance(a, b) {
  const n = DATA.vectors.dimensions;
  let sum = 0;
  for (let i = 0; i < n; i++) sum += (VECTORS[a * n + i] - VECTORS[b * n + i]) ** 2;
  return sum;
}

const FIELD_UM = 60; // height of a band of the slide that "position" reads from side to side
const nothingLast = (value) => value ?? Infinity;

/** What each order sorts by: smaller values come first. */
const SORTS = {
  confidence: (i) => CELLS[i].p,
  size: (i) => nothingLast(CELLS[i].um),
  nc: (i) => nothingLast(CELLS[i].nc),
  position: (i) => {
    const band = Math.floor(CELLS[i].at[1] / FIELD_UM);
    return band * 1e7 + (band % 2 ? 5e6 - CELLS[i].at[0] : CELLS[i].at[0]);
  },
  similarity: (i) => (likeIndex < 0 ? 0 : distance(i, likeIndex)),
  teaching: (i) => -(CELLS[i].teach ?? 0),
};

/** Sort the cells as the controls say. Equal cells keep the order of the report. */
function sortCells() {
  const name = byId("sort").value;
  if (name === "similarity" && likeIndex < 0) likeIndex = chosen;
  const value = CELLS.map((_, index) => SORTS[name](index));
  const sign = byId("sort-down").getAttribute("aria-pressed") === "true" ? -1 : 1;
  order = CELLS.map((_, index) => index);
  order.sort((a, b) => sign * (value[a] - value[b]) || a - b);
  byId("sort-said").textContent = name === "similarity" && likeIndex >= 0 ? `to cell ${CELLS[likeIndex].id}` : "";
}

/** The filters as they stand, as a test of a cell. */
function wanted() {
  const className = byId("f-class").value;
  const below = Number(byId("f-below").value);
  const text = byId("f-text").value.trim().toLowerCase();
  const [review, open] = [byId("f-review").checked, byId("f-open").checked];
  const disputed = byId("f-disputed").checked ? new Set(disputedCells()) : null;
  return (cell) =>
    (!className || classNow(cell) === className || cell.class === className) &&
    (!review || Boolean(cell.why)) &&
    (!open || !marks.has(cell.id)) &&
    (!disputed || disputed.has(cell)) &&
    cell.p < below &&
    (!text || `${cell.say} ${cell.why} ${cell.id} ${comments.get(cell.id) ?? ""}`.toLowerCase().includes(text));
}

/** Apply the filters. A decision does not apply them again: a cell must not vanish under the reviewer's eyes. */
function filter() {
  const passes = wanted();
  passing = new Set(CELLS.map((_, index) => index).filter((index) => passes(CELLS[index])));
  const all = passing.size === CELLS.length;
  byId("shown").textContent = all ? "" : `${passing.size} of ${CELLS.length} shown`;
  byId("nothing").hidden = passing.size > 0 || !CELLS.length;
  arrange();
  const lost = chosen < 0 || placeOf[chosen] < 0;
  choose(lost ? (sequence[0] ?? -1) : chosen, { focus: false });
  if (lost) byId("grid").scrollTop = 0;
}

/** The shown cells class by class, each by its class now: [{name, indices}]. One group where classes are not parted. */
function groupsNow() {
  const shown = order.filter((index) => passing.has(index));
  if (byId("by-class").getAttribute("aria-pressed") !== "true") return shown.length ? [{ name: "", indices: shown }] : [];
  const groups = new Map(GROUP_ORDER.map((name) => [name, []]));
  for (const index of shown) groups.get(classNow(CELLS[index])).push(index);
  return [...groups].filter(([, indices]) => indices.length).map(([name, indices]) => ({ name, indices }));
}

/** Unidentified cells come first, then the classes in clinical order. */
const GROUP_ORDER = ["unidentified", ...DATA.classes.map((c) => c.name).filter((name) => name !== "unidentified")];
