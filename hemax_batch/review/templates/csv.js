/* corrections.csv, which `hemax-batch retally` reads. It guards against spreadsheet formulas as all our tables do. */

const OLD_COLUMNS = ["slide", "result_sha256", "cell_id", "class_before", "class_after", "action", "reviewer", "time"];
const CSV_COLUMNS = [...OLD_COLUMNS, "comment"];

/** Text that no spreadsheet takes for a formula, on one line (outputs.tables.safe_text). */
function safeText(text) {
  const guard = /^[\t\r\n']/.test(text) || /^[ \t\r\n\v\f\xa0\ufeff"'`]*[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(text);
  const shown = text.replace(/\n/g, "␊").replace(/\r/g, "␍");
  return guard ? `'${shown}` : shown;
}

/** The inverse of `safeText`. */
const plainText = (text) => text.replace(/^'/, "").replace(/␊/g, "\n").replace(/␍/g, "\r");

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);

/** The review as CSV: a row per cell with a decision or a comment, by id; then the slide's comment and the sign-off. */
function correctionsCsv() {
  const reviewer = safeText(reviewerName());
  const now = timeNow();
  const row = (id, before, after, action, time, comment) =>
    [safeText(DATA.slide), DATA.sha, id, before, after, action, reviewer, time, safeText(comment)];
  const cells = CELLS.filter((cell) => marks.has(cell.id) || comments.has(cell.id)).sort((a, b) => a.id - b.id);
  const rows = cells.map((cell) => {
    const mark = marks.get(cell.id);
    const after = classNow(cell);
    const action = !mark ? "comment" : after === cell.class ? "approve" : "reclassify";
    return row(String(cell.id), cell.class, after, action, mark?.time ?? now, comments.get(cell.id) ?? "");
  });
  if (slideComment) rows.push(row("", "", "", "slide_comment", now, slideComment));
  if (signature) rows.push(row("", "", "", "sign_off", signature.time, ""));
  return [CSV_COLUMNS, ...rows].map((fields) => fields.map(quoted).join(",")).join("\n") + "\n";
}

/** Rows of fields; quotes, CRLF and a byte-order mark are understood. */
function parseCsv(text) {
  const rows = [[]];
  const field = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\n|\r|$)/y;
  const body = text.replace(/^\ufeff/, "");
  while (field.lastIndex < body.length) {
    const found = field.exec(body);
    if (!found) throw new Error("it is no CSV file");
    rows.at(-1).push(found[1] === undefined ? found[2] : found[1].replace(/""/g, '"'));
    if (found[3] === "") break;
    if (found[3] !== ",") rows.push([]);
    else if (field.lastIndex === body.length) rows.at(-1).push("");
  }
  return rows.filter((row) => row.length > 1);
}

/** An earlier export as {reviewer, changes}. Throws where it is of another result. The form without comments is read too. */
function readCorrections(text) {
  const [header, ...rows] = parseCsv(text);
  const columns = [OLD_COLUMNS, CSV_COLUMNS].find((known) => header?.join() === known.join());
  if (!columns) throw new Error("its columns are not those of corrections.csv");
  const entries = rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, plainText(row[i] ?? "")])));
  const reviewer = entries[0]?.reviewer ?? "";
  return { reviewer, changes: entries.flatMap(changesOfEntry), cells: new Set(entries.map((e) => e.cell_id).filter(Boolean)).size };
}

/** The changes that one row of corrections.csv asks for. */
function changesOfEntry(entry) {
  if (entry.result_sha256 !== DATA.sha) throw new Error(`it is of another result (slide ${entry.slide})`);
  if (entry.action === "slide_comment") return [{ what: "slideComment", before: slideComment, after: entry.comment }];
  if (entry.action === "sign_off") return []; // a person signs here, or not at all
  const cell = CELLS[INDEX_OF_ID.get(Number(entry.cell_id))];
  if (!cell) throw new Error(`cell ${entry.cell_id} is not on this slide`);
  if (!CLASSES.has(entry.class_after)) throw new Error(`"${entry.class_after}" is no class`);
  const changes = entry.action === "comment" ? [] : markChanges([[cell, entry.class_after, entry.time]]);
  if (entry.comment) changes.push({ what: "comment", key: cell.id, before: comments.get(cell.id), after: entry.comment });
  return changes;
}
