"""File names that are not UTF-8, or hold control characters: every file written is valid UTF-8 and leads back to them."""

import csv
import json
import os

from click.testing import CliRunner
from painted_slides import smear, write_pyramid

from hemax_batch.cli.app import main
from hemax_batch.outputs.tables import path_from_text


def test_logs_tables_and_records_are_utf8_and_lead_back_to_the_file(weights, tmp_path):
    folder, out, log = tmp_path / "in", tmp_path / "out", tmp_path / "log.jsonl"
    folder.mkdir()
    names = [b"sm\xe9ar.tif", b"line\nbreak\x1b[31m.tif", b"plain.tif"]
    for name in names:
        path = os.path.join(os.fsencode(folder), name)
        write_pyramid(tmp_path / "x.tif", smear(300, 300, 1), mpp=0.25).rename(os.fsdecode(path))
    wrong = os.path.join(os.fsencode(folder), b"wr\xf6ng.tif")
    with open(wrong, "wb") as file:
        file.write(b"no slide")
    given = ["run", folder, "--out", out, "--weights", weights, "--workers", 0, "--log-json", log]
    result = CliRunner().invoke(main, [str(a) for a in given])
    assert result.exit_code == 3, result.output
    assert "\x1b" not in result.output
    for path in (
        p for p in (*out.rglob("*"), log) if p.suffix in (".json", ".csv", ".jsonl", ".html")
    ):
        path.read_bytes().decode("utf-8")
    paths = {os.fsencode(s["path"]) for s in json.loads((out / "run.json").read_text())["slides"]}
    assert paths == {wrong, *(os.path.join(os.fsencode(folder), name) for name in names)}
    events = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    failed = next(e for e in events if e.get("state") == "failed")
    assert os.fsencode(os.path.basename(failed["path"])) == b"wr\xf6ng.tif"
    rows = csv.DictReader((out / "differential.csv").read_text("utf-8").splitlines())
    assert {os.path.basename(os.fsencode(path_from_text(row["path"]))) for row in rows} == set(
        names
    )
    assert CliRunner().invoke(main, [str(a) for a in given]).exit_code == 3
    states = {s["state"] for s in json.loads((out / "run.json").read_text())["slides"]}
    assert states == {"skipped", "failed"}
