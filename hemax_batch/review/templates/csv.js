/* corrections.csv: what `hemax-batch retally` reads. The same guard against spreadsheet formulas as in all our tables. */

const CSV_COLUMNS = ["slide", "result_sha256", "cell_id", "class_before", "class_after", "action", "reviewer", "time"];

/** Text that no spreadsheet takes for a formula, on one line (outputs.tables.safe_text). */
function safeText(text) {
  const guard = /^[\t\r\n']/.test(text) || /^[ \t\r\n\v\f\xa0\ufeff"'`]*[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(text);
  const shown = text.replace(/\n/g, "␊").replace(/\r/g, "␍");
  return guard ? `'${shown}` : shown;
}

/** The inverse of `safeText`. */
const plainText = (text) => text.replace(/^'/, "").replace(/␊/g, "\n").replace(/␍/g, "\r");

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);

/** The review as CSV, a row per reviewed cell, by id. */
function correctionsCsv() {
  const reviewer = safeText(byId("reviewer").value.trim());
  const rows = CELLS.filter((cell) => marks.has(cell.id)).sort((a, b) => a.id - b.id).map((cell) => {
    const { after, time } = marks.get(cell.id);
    const action = after === cell.class ? "approve" : "reclassify";
    return [safeText(DATA.slide), DATA.sha, String(cell.id), cell.class, after, action, reviewer, time];
  });
  return [CSV_COLUMNS, ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
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

/** The marks in an earlier export, as [[cell, class name, time], ...], and its reviewer. Throws where it is another's. */
function readCorrections(text) {
  const [header, ...rows] = parseCsv(text);
  if (header?.join() !== CSV_COLUMNS.join()) throw new Error("its columns are not those of corrections.csv");
  const found = rows.map((row) => {
    const entry = Object.fromEntries(CSV_COLUMNS.map((name, i) => [name, plainText(row[i] ?? "")]));
    const index = INDEX_OF_ID.get(Number(entry.cell_id));
    if (entry.result_sha256 !== DATA.sha) throw new Error(`it is of another result (slide ${entry.slide})`);
    if (index === undefined) throw new Error(`cell ${entry.cell_id} is not on this slide`);
    if (!CLASSES.has(entry.class_after)) throw new Error(`"${entry.class_after}" is no class`);
    return [CELLS[index], entry.class_after, entry.time, entry.reviewer];
  });
  return { found, reviewer: found[0]?.[3] ?? "" };
}
