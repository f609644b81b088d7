/* On paper: every shown cell, class by class, with its decision; then the comments and who signed. */

const MOST_PRINTED = 400;

/** Fill the part of the page that is only printed. */
function preparePrint() {
  const paper = byId("paper");
  paper.replaceChildren();
  let left = MOST_PRINTED;
  for (const { name, indices } of groupsNow()) {
    const group = make("section", "paper-class");
    const title = make("h3");
    if (name) title.append(signOf(name), words(name), make("span", "number", String(indices.length)));
    const cells = make("div", "paper-cells");
    for (const index of indices.slice(0, left)) cells.append(paperCell(index));
    left -= Math.min(left, indices.length);
    group.append(title, cells);
    paper.append(group);
  }
  const told = CELLS.filter((cell) => comments.has(cell.id)).map((cell) => `Cell ${cell.id} (${words(classNow(cell))}): ${comments.get(cell.id)}`);
  if (slideComment) told.unshift(`Slide: ${slideComment}`);
  byId("paper-comments").replaceChildren(...told.map((text) => make("li", "", text)));
  byId("paper-comments-title").hidden = !told.length;
  const hidden = passing.size - Math.min(passing.size, MOST_PRINTED);
  const changed = CELLS.filter((cell) => classNow(cell) !== cell.class).length;
  const by = reviewerName() ? ` by ${reviewerName()}` : "";
  const signed = signature ? `Signed off by ${signature.reviewer}, ${shortTime(signature.time)}.` : "Not signed off.";
  byId("print-note").textContent =
    `${marks.size} of ${CELLS.length} cells reviewed${by}, ${changed} reclassified. ${signed}` +
    (hidden > 0 ? ` ${hidden} more cells are not printed.` : "");
}

function paperCell(index) {
  const cell = CELLS[index];
  const mark = marks.get(cell.id);
  const changed = mark && mark.after !== cell.class;
  const figure = make("figure", `paper-cell ${changed ? "changed" : ""}`);
  const looks = looksOf(index);
  const img = make("img");
  img.alt = "";
  if (looks?.jpeg) img.src = looks.jpeg;
  const text = `${cell.id} ${cell.p.toFixed(2)}${mark ? (changed ? ` was ${words(cell.class)}` : " ✓") : ""}${comments.has(cell.id) ? " ✉" : ""}`;
  figure.append(img, make("figcaption", "", text));
  return figure;
}

/** Print when all pictures are ready. */
async function printReport() {
  preparePrint();
  await Promise.all([...byId("paper").querySelectorAll("img[src]")].map((img) => img.decode().catch(() => {})));
  print();
}
