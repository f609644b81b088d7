/* The sign-off: what is still open, who signs, and the comment on the slide. */

/** What a reviewer should know before the sign-off, as [words, number, filter to see them]. */
function openMatters() {
  const open = CELLS.filter((cell) => !marks.has(cell.id));
  const byClass = DATA.classes
    .map((c) => [c.words, open.filter((cell) => cell.class === c.name).length, c.name])
    .filter(([, n]) => n);
  const unidentified = CELLS.filter((cell) => classNow(cell) === "unidentified").length;
  const flagged = open.filter((cell) => cell.why).length;
  return { open: open.length, byClass, unidentified, flagged };
}

function showSignOff() {
  const { open, byClass, unidentified, flagged } = openMatters();
  const list = byId("open-list");
  list.replaceChildren();
  const add = (text, bad, show) => {
    const item = make("li", bad ? "bad" : "good", text);
    if (show) {
      const button = make("button", "", "show");
      button.type = "button";
      button.setAttribute("aria-label", `Show: ${text}`);
      button.addEventListener("click", () => {
        byId("sign-off").close();
        resetFilters();
        show();
        filter();
        tiles.get(chosen)?.focus();
      });
      item.append(button);
    }
    list.append(item);
  };
  const showOpen = () => { byId("f-open").checked = true; };
  add(open ? `${plural(open, "cell")} not reviewed` : "Every cell is reviewed", open, open && showOpen);
  for (const [text, n, name] of byClass) {
    add(`${n} of class ${text} not reviewed`, true, () => { showOpen(); byId("f-class").value = name; });
  }
  if (flagged) add(`${flagged} of them marked for review`, true, () => { showOpen(); byId("f-review").checked = true; });
  add(unidentified ? `${plural(unidentified, "cell")} unidentified` : "No cell is unidentified", unidentified,
    unidentified && (() => { byId("f-class").value = "unidentified"; }));
  if (comments.size) add(plural(comments.size, "comment"), false);
  byId("sign-name").textContent = reviewerName() || "Enter your name as reviewer first.";
  byId("sign-confirm").textContent = open ? `Sign off with ${plural(open, "cell")} not reviewed` : "Sign off";
  byId("sign-confirm").disabled = !reviewerName() || sameNameAsOther();
  if (sameNameAsOther()) byId("sign-name").textContent = `${reviewerName()} is the other reader too. Two readers are two persons.`;
  byId("sign-withdraw").hidden = !signature;
  byId("sign-off").showModal();
}

function sameNameAsOther() {
  const other = readStored(3 - reader);
  return Boolean(other.signature) && other.reviewer.trim().toLowerCase() === reviewerName().toLowerCase();
}

function signOff() {
  const { open } = openMatters();
  const after = { reviewer: reviewerName(), time: timeNow(), open };
  carryOut("sign-off", [{ what: "signature", before: signature, after }]);
  byId("sign-off").close();
  update();
  say("Signed off. Export corrections.csv, then: hemax-batch retally RESULTS --corrections corrections.csv");
}

function withdrawSignature() {
  carryOut("sign-off", [{ what: "signature", before: signature, after: undefined }]);
  byId("sign-off").close();
  update();
  say("The sign-off is withdrawn.");
}

function showSlideComment() {
  byId("slide-text").value = slideComment;
  byId("slide-dialog").showModal();
}

function keepSlideComment() {
  const after = byId("slide-text").value.trim();
  if (after === slideComment) return;
  carryOut("comment on the slide", [{ what: "slideComment", before: slideComment, after }]);
  update();
  say(after ? "Comment on the slide kept." : "Comment on the slide removed.");
}
