/* Reference cells: cells that this laboratory approved and keeps to compare with. They stay in the browser; none ship. */

const REFERENCE_STORE = "hemax-references";
const MOST_REFERENCES = 24; // of a class
const SHOWN_REFERENCES = 6;
let references = new Map(stored(REFERENCE_STORE, []).filter(isReference).map((entry) => [entry.key, entry]));

const referenceKey = (cell) => `${DATA.sha}:${cell.id}`;

/** Whether foreign data is a reference cell: pictures are JPEG data and outlines are paths. */
function isReference(entry) {
  const text = (name) => typeof entry?.[name] === "string";
  return (
    ["key", "class", "jpeg", "cell", "nucleus", "slide", "reviewer", "time"].every(text) &&
    CLASSES.has(entry.class) && entry.jpeg.startsWith("data:image/jpeg;base64,") && typeof entry.id === "number"
  );
}

const referencesOf = (className) => [...references.values()].filter((entry) => entry.class === className);

function keepReferences() {
  store(REFERENCE_STORE, [...references.values()]);
}

/** Keep the selected cells as references of their class, or take them out again. Only decided cells can be kept. */
function toggleReferences() {
  const cells = targets().map((index) => CELLS[index]);
  const open = cells.filter((cell) => !marks.has(cell.id));
  if (!cells.length) return;
  if (open.length) return say(`Decide first: ${plural(open.length, "selected cell")} not reviewed. Only approved cells become references.`);
  const all = cells.every((cell) => references.has(referenceKey(cell)));
  const changes = [];
  for (const cell of cells) {
    const before = references.get(referenceKey(cell));
    if (Boolean(before) !== all) continue;
    changes.push({ what: "reference", key: referenceKey(cell), before, after: all ? undefined : referenceOf(cell) });
  }
  const full = [...new Set(cells.map(classNow))].find((name) => !all && referencesOf(name).length + changes.length > MOST_REFERENCES);
  if (full) return say(`A class keeps ${MOST_REFERENCES} reference cells. Take some ${words(full)}s out first.`);
  carryOut("reference cells", changes);
  update();
  say(`${plural(changes.length, "cell")} ${all ? "taken out of" : "kept among"} the reference cells. U takes it back.`);
}

function referenceOf(cell) {
  const looks = looksOf(INDEX_OF_ID.get(cell.id));
  return {
    key: referenceKey(cell), class: classNow(cell), ...looks, um: cell.um,
    slide: DATA.slide, id: cell.id, reviewer: reviewerName(), time: timeNow(),
  };
}

/** The reference cells of a class as small pictures; where none are kept, cells approved on this slide. */
function referencePictures(className, exceptIndex) {
  if (className === "unidentified") return { list: make("div"), said: "" };
  const kept = referencesOf(className).slice(-SHOWN_REFERENCES).reverse();
  const list = make("div", "references");
  for (const entry of kept) list.append(smallPicture(entry, `${entry.slide}, cell ${entry.id}, ${entry.reviewer}`));
  if (kept.length) return { list, said: `Reference cells of the laboratory: ${words(className)}` };
  const approved = CELLS.filter((cell, index) => index !== exceptIndex && marks.get(cell.id)?.after === className);
  for (const cell of approved.slice(-SHOWN_REFERENCES).reverse()) {
    const looks = looksOf(INDEX_OF_ID.get(cell.id));
    if (looks) list.append(smallPicture(looks, `cell ${cell.id}, approved on this slide`));
  }
  const said = approved.length
    ? `Approved on this slide: ${words(className)}`
    : `No reference cell of class ${words(className)} yet. W keeps an approved cell.`;
  return { list, said };
}

function smallPicture(looks, title) {
  const img = make("img");
  img.src = looks.jpeg;
  img.alt = img.title = title;
  return img;
}

/** Save the reference cells as a file for the laboratory's other computers. */
function exportReferences() {
  if (!references.size) return say("No reference cell is kept in this browser.");
  save("reference-cells.json", "application/json", JSON.stringify([...references.values()]));
  say(`reference-cells.json: ${plural(references.size, "cell")}.`);
}

/** Add the reference cells of a file. */
async function importReferences(file) {
  const list = JSON.parse(await file.text());
  if (!Array.isArray(list) || !list.every(isReference)) throw new Error("it holds no reference cells");
  const changes = list.map((entry) => ({ what: "reference", key: entry.key, before: references.get(entry.key), after: entry }));
  carryOut("reference cells", changes);
  update();
  say(`${plural(list.length, "reference cell")} added from ${file.name}. U takes it back.`);
}
