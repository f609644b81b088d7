/* The gallery: a card per cell, filled when it comes near the screen, and shown or hidden by the filters.

Cards stand in batches: what is far from the screen costs the browser nothing per card, only per batch. */

const BATCH = 60; // cards: whole rows of 1 to 6, but for the last batch of a class
const ROW_PX = { cards: 236, small: 196 }; // about, until a batch has been laid out

const cards = []; // index in CELLS -> its <article>; in the document while it is shown
const filled = new Set(); // indices whose card has its picture and words
let shown = []; // what passes the filters, in order
let chosen = -1; // index of the cell that keys act on

const coming = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const card of entry.target.children) fill(Number(card.dataset.index));
      coming.unobserve(entry.target);
    }
  },
  { rootMargin: "700px 0px" },
);

/** An empty card per cell. Cheap: words and pictures come later. */
function makeCards() {
  const empty = document.createElement("article");
  empty.className = "card";
  empty.tabIndex = -1;
  CELLS.forEach((cell, index) => {
    const card = empty.cloneNode();
    card.dataset.index = index;
    card.id = `cell-${cell.id}`;
    cards.push(card);
    refresh(index);
  });
}

/** Put the shown cards into the document, class by class and batch by batch. */
function arrange() {
  coming.disconnect();
  for (const section of document.querySelectorAll("[data-section]")) {
    const own = shown.filter((index) => CELLS[index].class === section.dataset.section);
    const batches = [];
    for (let start = 0; start < own.length; start += BATCH) {
      const batch = document.createElement("div");
      batch.className = "batch";
      batch.append(...own.slice(start, start + BATCH).map((index) => cards[index]));
      batches.push(batch);
    }
    section.hidden = !own.length;
    section.querySelector(".cards").replaceChildren(...batches);
  }
  estimate();
  for (const batch of document.querySelectorAll(".batch")) coming.observe(batch);
}

/** Tell the browser how high the batches will be that it has not laid out. */
function estimate() {
  const batches = document.querySelectorAll(".batch");
  if (!batches.length) return;
  const columns = getComputedStyle(batches[0]).gridTemplateColumns.split(" ").length;
  const row = document.body.classList.contains("small-cards") ? ROW_PX.small : ROW_PX.cards;
  for (const batch of batches) {
    batch.style.containIntrinsicBlockSize = `auto ${Math.ceil(batch.children.length / columns) * row}px`;
  }
}

/** Give a card its picture, outlines and words. */
function fill(index) {
  if (filled.has(index)) return;
  filled.add(index);
  const cell = CELLS[index];
  const card = cards[index];
  const looks = looksOf(index);
  card.append(...byId("card").content.firstElementChild.cloneNode(true).childNodes);
  const img = card.querySelector("img");
  if (looks.jpeg) img.src = `data:image/jpeg;base64,${looks.jpeg}`;
  else card.querySelector(".picture").classList.add("missing");
  card.querySelector("path.halo").setAttribute("d", looks.cell);
  card.querySelector("path.cell").setAttribute("d", looks.cell);
  card.querySelector("path.nucleus").setAttribute("d", looks.nucleus);
  card.querySelector(".figures").textContent = figures(cell);
  card.querySelector(".chips").append(...chips(cell));
  card.querySelector(".why").textContent = cell.why;
  card.querySelector(".out").textContent = cell.out && `not counted: ${cell.out}`;
  card.querySelector(".say").textContent = cell.say;
  refresh(index);
}

function figures(cell) {
  const parts = [`confidence ${cell.p.toFixed(2)}`];
  if (cell.um !== null) parts.push(`${cell.um.toFixed(1)} µm`);
  if (cell.rbc !== null) parts.push(`${cell.rbc.toFixed(1)}× red cell`);
  return parts.join(" · ");
}

/** The five attributes: nucleus shape, granularity, cytoplasm colour, size, N:C. An unsure one is marked "?". */
function chips(cell) {
  const said = new Map(DATA.attributes.map((a, i) => [a.name, [a.words[cell.states[i][0]], cell.states[i][1]]]));
  const order = ["nucleus_shape", "granularity", "cytoplasm_colour", "size_vs_rbc"];
  const list = order.map((key) => {
    const [words, sure] = said.get(key);
    return chip(words.replace(/ \(.*?\)/, ""), sure, key.replaceAll("_", " "));
  });
  list.push(chip(cell.nc === null ? "N:C –" : `N:C ${cell.nc.toFixed(2)}`, 1, "nucleus over cytoplasm, by area"));
  return list;
}

function chip(words, sure, title) {
  const item = document.createElement("li");
  item.textContent = sure < 0.6 ? `${words} ?` : words;
  item.title = sure < 1 ? `${title}: ${Math.round(100 * sure)} % sure` : title;
  item.classList.toggle("unsure", sure < 0.6);
  return item;
}

/** The name that a screen reader speaks. */
function speak(index) {
  const cell = CELLS[index];
  const mark = marks.get(cell.id);
  const state = !mark ? "not reviewed" : mark.after === cell.class ? "approved" : `reclassified from ${words(cell.class)}`;
  const why = cell.why ? `; for review: ${cell.why}` : "";
  cards[index].setAttribute("aria-label", `Cell ${cell.id}: ${words(classNow(cell))}, confidence ${cell.p.toFixed(2)}, ${state}${why}${cell.out && `; not counted: ${cell.out}`}`);
}

const words = (className) => CLASSES.get(className).words;

/** Bring a card up to date with the review. */
function refresh(index) {
  const cell = CELLS[index];
  const card = cards[index];
  const mark = marks.get(cell.id);
  const now = CLASSES.get(classNow(cell));
  speak(index);
  card.classList.toggle("approved", mark?.after === cell.class);
  card.classList.toggle("changed", Boolean(mark) && mark.after !== cell.class);
  card.classList.toggle("doubt", Boolean(cell.why));
  if (!filled.has(index)) return;
  const sign = card.querySelector(".sign");
  sign.setAttribute("class", `sign c-${now.name}`);
  sign.querySelector("use").setAttribute("href", `#s-${now.shape}`);
  card.querySelector(".class-now").textContent = now.words;
  card.querySelector(".was").textContent = mark && mark.after !== cell.class ? `was ${words(cell.class)}` : "";
  card.querySelector(".state").textContent = !mark ? `№ ${cell.id}` : mark.after === cell.class ? `✓ ${cell.id}` : `✎ ${cell.id}`;
}

/** Choose the cell at `index`: the one that keys act on. */
function choose(index, focus = true) {
  if (chosen >= 0) {
    cards[chosen].tabIndex = -1;
    cards[chosen].classList.remove("chosen");
  }
  chosen = index;
  if (index < 0) return;
  fill(index);
  const card = cards[index];
  card.tabIndex = 0;
  card.classList.add("chosen");
  if (focus && document.activeElement !== card) card.focus({ preventScroll: true });
  if (focus) intoView(card);
}

/** Scroll so that a card stands clear of the bars above and below; and again while batches above it are laid out. */
function intoView(card, again = 3) {
  const { top, bottom } = card.getBoundingClientRect();
  const clear = document.querySelector(".desk").getBoundingClientRect().bottom + 8;
  const floor = innerHeight - byId("dock").offsetHeight - 8;
  if (top < clear) scrollBy(0, top - clear);
  else if (bottom > floor) scrollBy(0, Math.min(bottom - floor, top - clear));
  if (again) requestAnimationFrame(() => card === cards[chosen] && intoView(card, again - 1));
}

/** The filters as they stand, as a test of a cell. */
function wanted() {
  const className = byId("f-class").value;
  const below = Number(byId("f-below").value);
  const text = byId("f-text").value.trim().toLowerCase();
  const [review, open] = [byId("f-review").checked, byId("f-open").checked];
  return (cell) =>
    (!className || classNow(cell) === className || cell.class === className) &&
    (!review || Boolean(cell.why)) &&
    (!open || !marks.has(cell.id)) &&
    cell.p < below &&
    (!text || `${cell.say} ${cell.why} ${cell.id}`.toLowerCase().includes(text));
}

/** Show what passes the filters. Not called after a mark: a card must not vanish under the reviewer's eyes. */
function filter() {
  const passes = wanted();
  shown = CELLS.map((_, index) => index).filter((index) => passes(CELLS[index]));
  arrange();
  const all = shown.length === CELLS.length;
  byId("shown").textContent = all ? "" : `${shown.length} of ${CELLS.length} shown`;
  byId("nothing").hidden = shown.length > 0 || !CELLS.length;
  if (chosen < 0 || !cards[chosen].isConnected) choose(shown[0] ?? -1, false);
  showChosen();
}
