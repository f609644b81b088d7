/* Undo and redo. Everything that a reviewer changes is a step: a list of values that were replaced. */

const past = []; // steps that undo takes back: {words, changes: [{what, key, before, after}]}
const future = []; // steps that redo repeats

/** How each kind of value is stored. An undefined value means "none". */
const STORES = {
  mark: (id, value) => setOrDelete(marks, id, value),
  comment: (id, value) => setOrDelete(comments, id, value),
  slideComment: (_, value) => { slideComment = value ?? ""; },
  signature: (_, value) => { signature = value; },
  reference: (key, value) => setOrDelete(references, key, value),
};

function setOrDelete(map, key, value) {
  if (value === undefined) map.delete(key);
  else map.set(key, value);
}

/** Carry out changes as one step. A change after the sign-off withdraws the sign-off. */
function carryOut(words, changes) {
  const signs = changes.some((change) => change.what === "signature");
  const aside = changes.every((change) => change.what === "reference");
  if (signature && !signs && !aside) changes = [...changes, { what: "signature", before: signature, after: undefined }];
  past.push({ words, changes });
  future.length = 0;
  for (const { what, key, after } of changes) STORES[what](key, after);
  keepStep(changes);
}

/** Move one step from one list to the other. Returns the step, or nothing where there is none. */
function moveStep(from, to, side) {
  const step = from.pop();
  if (!step) return undefined;
  to.push(step);
  for (const change of step.changes) STORES[change.what](change.key, change[side]);
  keepStep(step.changes);
  return step;
}

const undoStep = () => moveStep(past, future, "before");
const redoStep = () => moveStep(future, past, "after");

function keepStep(changes) {
  keep();
  if (changes.some((change) => change.what === "reference")) keepReferences();
}

/** The cells that a step concerns, by id. */
const idsOf = (step) => step.changes.filter((c) => c.what === "mark" || c.what === "comment").map((c) => c.key);
