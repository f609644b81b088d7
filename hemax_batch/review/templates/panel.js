/* The panel beside the grid: the explanation of the cell under the mouse, or else of the chosen cell. */

let hovered = -1; // index of the cell under the mouse

function hover(event) {
  const index = Number(event.target.closest(".card")?.dataset.index ?? -1);
  if (index === hovered || document.activeElement === byId("comment")) return;
  hovered = index;
  showPanel();
}

/** A cell's picture with its outlines, at any size, over the whole stored glass. */
function largePicture(looks) {
  const svg = draw("svg", { viewBox: `0 0 ${PICTURE_UM} ${PICTURE_UM}`, class: "large", "aria-hidden": "true" });
  if (looks?.jpeg) svg.append(draw("image", { href: looks.jpeg, width: PICTURE_UM, height: PICTURE_UM }));
  if (looks) {
    for (const [name, d] of [["halo", looks.cell], ["cell", looks.cell], ["nucleus", looks.nucleus]]) {
      svg.append(draw("path", { class: name, d }));
    }
  }
  svg.append(draw("path", { class: "bar", d: "M1.2 22.8h5" }));
  return svg;
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
    const [text, sure] = said.get(key);
    return chip(text.replace(/ \(.*?\)/, ""), sure, key.replaceAll("_", " "));
  });
  list.push(chip(cell.nc === null ? "N:C –" : `N:C ${cell.nc.toFixed(2)}`, 1, "nucleus over cytoplasm, by area"));
  return list;
}

function chip(text, sure, title) {
  const item = make("li", sure < 0.6 ? "unsure" : "", sure < 0.6 ? `${text} ?` : text);
  item.title = sure < 1 ? `${title}: ${Math.round(100 * sure)} % sure` : title;
  return item;
}

/** What is known of a cell, as elements: title, figures, attributes, reasons for review, explanation. */
function description(index) {
  const cell = CELLS[index];
  const mark = marks.get(cell.id);
  const changed = mark && mark.after !== cell.class;
  const title = make("p", "title");
  title.append(signOf(classNow(cell)), words(classNow(cell)), make("span", "number", `cell ${cell.id}`));
  const list = make("ul", "chips");
  list.append(...chips(cell));
  const state = !mark ? "not reviewed" : changed ? `was ${words(cell.class)}` : "✓ approved";
  const parts = [
    title, make("p", `state-words ${changed ? "changed" : mark ? "approved" : ""}`, state), make("p", "figures", figures(cell)), list,
  ];
  if (cell.why) parts.push(make("p", "why", cell.why));
  if (cell.out) parts.push(make("p", "out-words", `not counted: ${cell.out}`));
  parts.push(make("p", "say", cell.say));
  return parts;
}

/** Show the cell under the mouse, or else the chosen one. */
function showPanel() {
  const index = hovered >= 0 ? hovered : chosen;
  byId("panel-cell").hidden = index < 0;
  if (index < 0) return;
  const looks = looksOf(index);
  byId("panel-picture").replaceChildren(largePicture(looks));
  byId("panel-words").replaceChildren(...description(index));
  const { list, said } = referencePictures(classNow(CELLS[index]), index);
  byId("panel-references").replaceChildren(make("p", "fine", said), list);
  const cell = CELLS[chosen];
  const field = byId("comment");
  byId("comment-label").textContent = cell ? `Comment on cell ${cell.id}` : "Comment";
  field.disabled = !cell;
  if (document.activeElement !== field) field.value = cell ? comments.get(cell.id) ?? "" : "";
}

/** Keep what was typed as the comment of the cell that it was typed for. */
function keepComment(cell, text) {
  const after = text.trim() || undefined;
  const before = comments.get(cell.id);
  if (after === before) return;
  carryOut("comment", [{ what: "comment", key: cell.id, before, after }]);
  update();
  say(after ? `Comment on cell ${cell.id} kept.` : `Comment on cell ${cell.id} removed.`);
}

/** Show what keys act on, and mark it on the map of the smear. */
function showSelection() {
  const list = targets();
  const cell = CELLS[chosen];
  const now = new Set(list.map((index) => classNow(CELLS[index])));
  byId("chosen").textContent =
    list.length > 1 ? `${list.length} cells selected` : cell ? `Cell ${cell.id}: ${words(classNow(cell))}` : "No cell";
  for (const button of byId("classes").querySelectorAll("[data-class]")) {
    button.setAttribute("aria-pressed", now.has(button.dataset.class));
  }
  const here = byId("here");
  here.toggleAttribute("hidden", !cell);
  if (cell) {
    here.setAttribute("cx", cell.x);
    here.setAttribute("cy", cell.y);
  }
  showPanel();
  if (byId("zoom").open) showZoom();
}
