/* The counts after review: in the table of the result, in the list of classes, and the progress. */

/** Bring all counts up to date. */
function showCounts() {
  const counts = tally();
  const white = counts.get("white");
  const percent = (n) => (white ? ((100 * n) / white).toFixed(1) : "–");
  const changed = CELLS.some((cell) => classNow(cell) !== cell.class);
  byId("differential").classList.toggle("reviewed", changed || Boolean(signature));
  for (const place of document.querySelectorAll("[data-count]")) {
    const n = String(counts.get(place.dataset.count) ?? 0);
    const before = place.closest("tr").cells[1].textContent;
    place.textContent = n;
    place.classList.toggle("differs", before !== n);
  }
  for (const place of document.querySelectorAll("[data-percent]")) {
    place.textContent = percent(counts.get(place.dataset.percent) ?? 0);
  }
  for (const row of document.querySelectorAll("tr.added")) row.hidden = !counts.get(row.dataset.row);
  for (const place of document.querySelectorAll("[data-live]")) {
    const n = counts.get(place.dataset.live) ?? 0;
    place.textContent = CLASSES.get(place.dataset.live).white && n ? `${n} · ${percent(n)} %` : String(n);
    place.classList.toggle("zero", !n);
  }
  byId("progress").value = marks.size;
  byId("progress-said").textContent = `${marks.size} of ${CELLS.length} reviewed`;
  const signed = signature ? `Signed off by ${signature.reviewer}, ${shortTime(signature.time)}` : "Not signed off";
  byId("signed").textContent = signed;
  byId("signed").classList.toggle("good", Boolean(signature));
  byId("undo").disabled = !past.length;
  byId("redo").disabled = !future.length;
  byId("slide-comment").setAttribute("aria-pressed", Boolean(slideComment));
  byId("f-disputed-label").hidden = !(signature && readStored(3 - reader).signature);
}

/** A moment for people: 2026-11-23 21:30. */
const shortTime = (time) => time.slice(0, 16).replace("T", " ");
