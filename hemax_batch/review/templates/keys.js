/* The keyboard. Keys act while a cell has the focus or the large view is open, so typing elsewhere changes nothing. */

const KEY_ACTIONS = {
  enter: () => judge(),
  " ": () => (byId("zoom").open ? byId("zoom").close() : openZoom()),
  u: () => undo(),
  o: () => setOutlines(!byId("outlines").matches("[aria-pressed=true]")),
  x: () => tiles.get(chosen)?.classList.toggle("flipped"),
  d: () => openCompare(),
  j: () => { const index = nextOpen(); if (index < 0) say("Every shown cell is reviewed."); else choose(index); },
  q: () => chosen >= 0 && selectConfident(classNow(CELLS[chosen])),
  w: () => toggleReferences(),
  f2: () => commentOnChosen(),
  ".": () => sortBySimilarity(),
  "/": () => { byId("zoom").close(); byId("f-text").focus(); },
  "+": () => changeSize(sizePx + 12),
  "-": () => changeSize(sizePx - 12),
  "?": () => byId("keys-help").showModal(),
  escape: () => (drag ? stopDrag() : byId("zoom").open ? byId("zoom").close() : choose(chosen)),
};

const SHIFT_ACTIONS = {
  enter: () => chosen >= 0 && approveRest(classNow(CELLS[chosen])),
  u: () => redo(),
};

const CONTROL_ACTIONS = {
  z: (event) => (event.shiftKey ? redo() : undo()),
  y: () => redo(),
  a: () => selectClass(),
};

/** Act on a key; returns whether it meant anything. */
function actOnKey(event) {
  const key = event.key.toLowerCase();
  if (event.altKey) return false;
  if (event.ctrlKey || event.metaKey) {
    if (!CONTROL_ACTIONS[key]) return false;
    CONTROL_ACTIONS[key](event);
  } else if (MOVES[event.key]) {
    const index = MOVES[event.key]();
    if (event.shiftKey) extendTo(index);
    else choose(index);
  } else if (event.shiftKey && SHIFT_ACTIONS[key]) SHIFT_ACTIONS[key]();
  else if (event.shiftKey && CLASS_OF_KEY.has(key) && key !== event.key) goToClass(CLASS_OF_KEY.get(key));
  else if (KEY_ACTIONS[key]) KEY_ACTIONS[key]();
  else if (CLASS_OF_KEY.has(key)) judge(CLASS_OF_KEY.get(key));
  else return false;
  return true;
}

function goToClass(className) {
  const [first] = shownOf(className);
  if (first === undefined) say(`No ${words(className)} is shown.`);
  else choose(first);
}

function commentOnChosen() {
  byId("zoom").close();
  byId("comment").focus();
}

/** Arrow keys move within the list of classes, which is one stop of the Tab key. */
function moveInList(event, list) {
  const steps = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!steps) return;
  const buttons = [...list.querySelectorAll("button")];
  const next = buttons[(buttons.indexOf(document.activeElement) + steps + buttons.length) % buttons.length];
  for (const button of buttons) button.tabIndex = button === next ? 0 : -1;
  next.focus();
  event.preventDefault();
}
