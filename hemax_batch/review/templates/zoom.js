/* The large view: one cell with its neighbourhood, or two cells side by side. Class keys and arrows work in it too. */

const FIELD_SIDE_UM = 60; // side of the neighbourhood
let comparing = []; // indices of the two cells that stand side by side, or empty

function openZoom() {
  if (chosen < 0) return;
  comparing = [];
  showZoom();
  if (!byId("zoom").open) byId("zoom").showModal();
}

/** Two cells side by side: the two selected; else the chosen one and the one before it; else its nearest in looks. */
function openCompare() {
  if (chosen < 0 || CELLS.length < 2) return say("Two cells are needed to compare.");
  const list = targets();
  if (list.length === 2) comparing = list;
  else comparing = [chosen, previous >= 0 && previous !== chosen ? previous : nearestTo(chosen)];
  showZoom();
  if (!byId("zoom").open) byId("zoom").showModal();
}

function nearestTo(index) {
  let [best, least] = [-1, Infinity];
  for (let other = 0; other < CELLS.length; other++) {
    const far = other === index ? Infinity : distance(other, index);
    if (far < least) [best, least] = [other, far];
  }
  return best;
}

function showZoom() {
  const shown = comparing.length ? comparing : [chosen];
  if (comparing.length && !comparing.includes(chosen)) comparing = [];
  const panes = (comparing.length ? comparing : [chosen]).map(zoomPane);
  byId("zoom-title").textContent = comparing.length ? "Two cells side by side" : `Cell ${CELLS[shown[0]].id}`;
  if (!comparing.length) panes.push(neighbourhoodPane(chosen));
  byId("zoom-panes").replaceChildren(...panes);
}

function zoomPane(index) {
  const pane = make("figure", "pane");
  const looks = looksOf(index);
  const text = make("figcaption");
  text.append(...description(index));
  if (comments.has(CELLS[index].id)) text.append(make("p", "comment-words", `✉ ${comments.get(CELLS[index].id)}`));
  pane.append(largePicture(looks), text);
  return pane;
}

/** The cells of the slide that look most like a cell, with their classes now. */
function alikePictures(index) {
  const far = CELLS.map((_, other) => (other === index ? Infinity : distance(other, index)));
  const nearest = [...far.keys()].sort((a, b) => far[a] - far[b]).slice(0, SHOWN_REFERENCES);
  const list = make("div", "references");
  for (const other of nearest) {
    const looks = other === index ? null : looksOf(other);
    if (!looks) continue;
    const figure = make("figure");
    figure.append(smallPicture(looks, `cell ${CELLS[other].id}`), make("figcaption", "", words(classNow(CELLS[other]))));
    list.append(figure);
  }
  return list;
}

/** The stored pictures of all cells round a cell, each in its place. Glass without a found cell stays empty. */
function neighbourhoodPane(index) {
  const [x0, y0] = CELLS[index].at.map((middle) => middle - FIELD_SIDE_UM / 2);
  const svg = draw("svg", { viewBox: `0 0 ${FIELD_SIDE_UM} ${FIELD_SIDE_UM}`, class: "large field", "aria-hidden": "true" });
  const reach = (FIELD_SIDE_UM + PICTURE_UM) / 2;
  const near = CELLS.map((_, other) => other).filter((other) =>
    CELLS[other].at.every((middle, axis) => Math.abs(middle - CELLS[index].at[axis]) < reach));
  for (const other of [...near.filter((other) => other !== index), index]) {
    const looks = looksOf(other);
    const [x, y] = [CELLS[other].at[0] - x0 - PICTURE_UM / 2, CELLS[other].at[1] - y0 - PICTURE_UM / 2];
    if (!looks?.jpeg) continue;
    svg.append(draw("image", { href: looks.jpeg, x, y, width: PICTURE_UM, height: PICTURE_UM }));
    const outline = draw("path", { d: looks.cell, class: other === index ? "cell own" : "cell", transform: `translate(${x} ${y})` });
    svg.append(outline);
  }
  const pane = make("figure", "pane");
  const said = `Neighbourhood, ${FIELD_SIDE_UM} µm a side: ${plural(near.length - 1, "other cell")}. Glass without a found cell is empty.`;
  const text = make("figcaption");
  const { list, said: about } = referencePictures(classNow(CELLS[index]), index);
  text.append(make("p", "fine", said), make("p", "fine", "Most alike on this slide"), alikePictures(index));
  text.append(make("p", "fine", about), list);
  pane.append(svg, text);
  return pane;
}
