"""Our own files, as somebody else may have left them: nested, huge, of another type, not text, no file at all."""

import json
import os

import pytest
from click.testing import CliRunner
from made_results import make_results
from painted_slides import smear, write_pyramid
from run_results import states

from hemax_batch.bounded_files import MAX_DEPTH, parse_json, read_bounded, read_json, read_toml
from hemax_batch.cli.app import main
from hemax_batch.errors import LockedError, ResultsError, UsageError
from hemax_batch.results.folder import ResultsFolder
from hemax_batch.results.journal import read_failure
from hemax_batch.results.lock import OutputLock
from hemax_batch.review.index import write_index
from hemax_batch.review.load_results import load_slide

NESTED = b"[" * 100_000 + b"]" * 100_000


def sparse(path, size=2**30):
    with open(path, "wb") as file:
        file.truncate(size)


def fifo(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


HOSTILE = {
    "nested": lambda p: p.write_bytes(NESTED),
    "nested-in-a-record": lambda p: p.write_bytes(b'{"format": 8, "figures": ' + NESTED + b"}"),
    "a-number": lambda p: p.write_bytes(b"5"),
    "not-utf-8": lambda p: p.write_bytes(b'{"slide_id": "\xff\xfe"}'),
    "huge": sparse,
    "long-number": lambda p: p.write_bytes(b'{"format": ' + b"9" * 100_000 + b"}"),
    "nan": lambda p: p.write_bytes(b'{"format": NaN}'),
    "named-pipe": fifo,
    "empty": lambda p: p.write_bytes(b""),
}


@pytest.fixture(params=HOSTILE)
def hostile(request):
    """Puts a hostile file in the place of a path."""
    return HOSTILE[request.param]


def test_every_json_of_ours_is_refused_as_damaged(hostile, tmp_path):
    folder = make_results(tmp_path)
    results = ResultsFolder(tmp_path)
    hostile(folder / "result.json")
    assert results.record("S1") is None
    with pytest.raises(ResultsError, match=r"result\.json"):
        load_slide(folder)
    hostile(tmp_path / "run.json")
    hostile(results.state / "ids.json")
    assert results.known_ids() == {}
    write_index(results)
    (results.state / "failed").mkdir()
    hostile(results.state / "failed" / "S1.json")
    assert read_failure(results.state, "S1") is None
    hostile(results.state / "lock.1")
    with pytest.raises(LockedError, match=r"lock\.1: this lock is damaged"):
        OutputLock(results.state).__enter__()


@pytest.mark.parametrize(
    "name", ["differential.json", "cells.geojson", "cells.csv", "pictures.zip", "regions.csv"]
)
def test_a_slide_with_a_hostile_file_is_listed_with_the_reason(hostile, name, tmp_path):
    folder = make_results(tmp_path)
    hostile(folder / name)
    with pytest.raises(ResultsError, match=name):
        load_slide(folder)
    write_index(ResultsFolder(tmp_path))


RIGHT_TYPE = (("cells", 5), ("mpp", 5), ("figures", {"a": 1}))
WRONG_ENTRIES = [
    (entry, value)
    for entry in ("warnings", "cells", "figures", "unreadable_regions", "mpp")
    for value in (5, "x", None, [[[]]], {"a": 1})
    if (entry, value) not in RIGHT_TYPE
]


@pytest.mark.parametrize(("entry", "value"), WRONG_ENTRIES)
def test_an_entry_of_another_type_is_damage(entry, value, tmp_path):
    folder = make_results(tmp_path)
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | {entry: value}))
    assert ResultsFolder(tmp_path).record("S1") is None
    with pytest.raises(ResultsError, match=r"result\.json"):
        load_slide(folder)


def test_a_run_does_the_slide_of_a_hostile_record_again_and_the_others(weights, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        write_pyramid(tmp_path / "in" / f"{name}.tif", smear(300, 300, 1), mpp=0.25)
    out = tmp_path / "out"
    arguments = ["run", tmp_path / "in", "--out", out, "--weights", weights, "--workers", 0]
    arguments = [str(a) for a in arguments]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    (out / "a" / "result.json").write_bytes(NESTED)
    (out / ".hemax" / "ids.json").write_bytes(NESTED)
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert states(out) == {"a": "done", "b": "skipped"}


def test_options_and_rules_are_read_under_limits(tmp_path):
    from hemax_batch.cells.rules import Rules

    path = tmp_path / "x.toml"
    for content in (b"a = " + NESTED, b"\xff", b"#" * (2**20 + 1)):
        path.write_bytes(content)
        with pytest.raises(ValueError):
            read_toml(path)
        with pytest.raises(UsageError, match=r"x\.toml"):
            Rules.from_toml(path)


def test_limits(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": [1.5, "[[[", null]}')
    assert read_json(path) == {"a": [1.5, "[[[", None]}
    parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for text in ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "1e999", "[-Infinity]", str(2**64)):
        with pytest.raises(ValueError):
            parse_json(text)
    with pytest.raises(ValueError, match="the limit is 3"):
        read_bounded(path, 3)
    with pytest.raises(ValueError, match="no regular file"):
        read_bounded(tmp_path / ".." / tmp_path.name)
