"""A verification of the simulated laboratory finds what the simulation knows; bad input writes
nothing.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hemax_batch.laboratory.rules import TEMPLATE


@pytest.fixture(scope="module")
def verified(laboratory, tmp_path_factory):
    """A verification with the printed rules: folder, record, page."""
    from click.testing import CliRunner

    from hemax_batch.cli.app import main

    out = tmp_path_factory.mktemp("verified") / "v"
    args = [
        "verify",
        laboratory / "manual.csv",
        laboratory / "results",
        "--scans",
        laboratory / "scans.csv",
        "--rules",
        TEMPLATE,
    ]
    result = CliRunner().invoke(main, [str(a) for a in (*args, "--out", out)])
    assert result.exit_code in (0, 9), result.output
    return (
        out,
        json.loads((out / "verification.json").read_text()),
        (out / "verification.html").read_text(),
    )


@pytest.mark.parametrize("versus", ["bias", "examiners"])
def test_the_bias_of_each_class_is_the_simulated_one(verified, truth, versus):
    """Of the intervals of some twelve classes nearly all hold the truth, and no estimate is far
    from it.
    """
    record = verified[1]["classes" if versus == "bias" else "between_examiners"]
    checked = held = 0
    for name, true in truth["study"][versus].items():
        if name in record and record[name]["mean_x"] > 0.05:
            bias = record[name]["bias"]
            checked, held = checked + 1, held + (bias["low95"] <= true <= bias["high95"])
            assert abs(bias["value"] - true) < 1.2 * (bias["high95"] - bias["low95"]), name
    assert checked >= 10 and held >= checked - 2


def test_a_class_that_the_tool_calls_otherwise_is_told(verified):
    classes = verified[1]["classes"]
    assert classes["band_neutrophil"]["bias"]["high95"] < 0
    assert (
        classes["neutrophils"]["bias"]["low95"] < 0 < classes["neutrophils"]["bias"]["high95"]
    )  # the split, not the sum
    assert classes["band_neutrophil"]["passing_bablok"]["slope"]["high95"] < 1


def test_agreement_is_what_counting_alone_gives_where_the_tool_makes_no_error(verified):
    for name in ("neutrophils", "eosinophil"):
        c = verified[1]["classes"][name]
        assert c["within"]["low95"] <= c["within_by_chance"] <= c["within"]["high95"]
        assert c["sd"] == pytest.approx(c["counting_sd"], rel=0.25)


def test_scans_that_count_anew_repeat_as_counting_does(verified):
    repeats = verified[1]["repeatability"]["neutrophils"]
    assert repeats["slides"] == 20 and repeats["scans"] == 40
    assert repeats["ratio"]["low95"] <= 1 <= repeats["ratio"]["high95"]


def test_the_examiners_are_the_yardstick(verified):
    yardstick = verified[1]["yardstick"]
    assert (
        yardstick["band_neutrophil"]["verdict"] == "closer"
    )  # the examiners split bands differently
    assert all(entry["verdict"] != "further" for entry in yardstick.values())


def test_flags_count_every_slide_and_say_what_nobody_assessed(verified):
    flags = verified[1]["flags"]
    assert (
        sum(flags["blast"][k] for k in ("both", "reference_only", "method_only", "neither")) == 60
    )
    assert (
        flags["blast"]["sensitivity"]["value"] > 0.8 and not flags["variant_lymphocyte"]["assessed"]
    )
    assert verified[1]["examiner_flags"]["variant_lymphocyte"]["assessed"]


def test_reviewed_cells_are_tabulated_with_kappa(verified):
    review = verified[1]["review"]
    assert review["cells"] == sum(map(sum, review["table"])) > 2000
    assert 0.8 < review["kappa"]["low95"] < review["kappa"]["value"] < 0.97


def test_the_page_is_one_offline_file_that_says_what_it_is(verified):
    page = verified[2]
    assert "pre-classification, for review by a qualified morphologist; research use only" in page
    assert "What this page does not prove" in page and page.count("<svg") > 20
    assert (
        "<script" not in page
        and "http://" not in page
        and "https://" not in page
        and "src=" not in page.replace("img-src", "")
    )


def test_the_tables_hold_the_same_figures(verified):
    out, record, _ = verified
    with open(out / "classes.csv", newline="") as file:
        rows = {(r["comparison"], r["class"]): r for r in csv.DictReader(file)}
    row = rows["tool - examiners", "monocyte"]
    assert float(row["bias"]) == pytest.approx(
        record["classes"]["monocyte"]["bias"]["value"], abs=1e-4
    )
    with open(out / "slides.csv", newline="") as file:
        assert sum(r["class"] == "monocyte" for r in csv.DictReader(file)) == 60
    with open(out / "flags.csv", newline="") as file:
        assert {r["flag"] for r in csv.DictReader(file)} >= {"distribution", "blast"}


def test_a_limit_that_is_not_met_is_exit_code_9(laboratory, tmp_path, invoke):
    rules = tmp_path / "strict.toml"
    rules.write_text(
        "[acceptance.bias]\nband_neutrophil = 0.5\nneutrophils = 5\n[acceptance.sensitivity]\nvariant_lymphocyte = 0.5\n"
    )
    result = invoke(
        "verify",
        laboratory / "manual.csv",
        laboratory / "results",
        "--rules",
        rules,
        "--out",
        tmp_path / "v",
    )
    assert (
        result.exit_code == 9
        and "not met: bias, percentage points of band neutrophil" in result.output
    )
    assert (
        "sensitivity by slide of variant lymphocytes: not measured" in result.output
        and "1 of 3 limits met" in result.output
    )
    acceptance = json.loads((tmp_path / "v" / "verification.json").read_text())["acceptance"]
    assert [x["passed"] for x in acceptance] == [False, True, None]


def test_without_limits_nothing_is_accepted_or_refused(laboratory, tmp_path, invoke):
    result = invoke(
        "verify", laboratory / "manual.csv", laboratory / "results", "--out", tmp_path / "v"
    )
    assert result.exit_code == 0 and "no limits were set" in result.output
    assert "has set no limits" in (tmp_path / "v" / "verification.html").read_text()


def test_reviewed_counts_come_closer_to_the_blood(laboratory, tmp_path, invoke):
    """After review bands are the simulated blood's; slides without a review are left out by
    name.
    """
    args = (
        "verify",
        laboratory / "manual.csv",
        laboratory / "results",
        "--counts",
        "reviewed",
        "--out",
        tmp_path / "v",
    )
    result = invoke(*args)
    assert (
        result.exit_code == 0
        and "12 slides compared, 48 left out" in result.output
        and "nobody reviewed it" in result.output
    )
    record = json.loads((tmp_path / "v" / "verification.json").read_text())
    assert record["counts"] == "reviewed" and "variant_lymphocyte" in record["classes"]


def test_a_folder_without_reviews_says_what_to_do(laboratory, tmp_path, invoke):
    shutil.copytree(
        laboratory / "results", tmp_path / "results", ignore=shutil.ignore_patterns("reviews")
    )
    assert (
        invoke(
            "verify", laboratory / "manual.csv", tmp_path / "results", "--out", tmp_path / "v"
        ).exit_code
        == 0
    )
    assert "hemax-batch retally RESULTS" in (tmp_path / "v" / "verification.html").read_text()


def test_a_slide_without_a_result_is_left_out_with_the_nearest_name(laboratory, tmp_path, invoke):
    manual = tmp_path / "manual.csv"
    manual.write_text((laboratory / "manual.csv").read_text().replace("S060,", "S0600,"))
    result = invoke("verify", manual, laboratory / "results", "--out", tmp_path / "v")
    assert (
        result.exit_code == 0
        and "59 slides compared, 1 left out" in result.output
        and "do you mean 'S060'?" in result.output
    )


def test_a_damaged_result_is_left_out_with_the_reason(laboratory, tmp_path, invoke):
    shutil.copytree(laboratory / "results", tmp_path / "results")
    (tmp_path / "results" / "S001" / "differential.json").write_text("{}")
    (tmp_path / "results" / "S002" / "differential.json").unlink()
    result = invoke(
        "verify", laboratory / "manual.csv", tmp_path / "results", "--out", tmp_path / "v"
    )
    assert result.exit_code == 0 and "58 slides compared, 2 left out" in result.output
    assert "S001: " in result.output and "cannot be read as a differential" in result.output


def test_bad_input_writes_nothing(laboratory, tmp_path, invoke):
    bad = tmp_path / "manual.csv"
    bad.write_text("slide,examiner,cells,lymphocyte\nS001,A,100,99\n")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "v"
    for args, words in (
        ((bad, laboratory / "results"), "row 2: the classes sum to 99"),
        ((laboratory / "manual.csv", tmp_path / "empty"), "no results of hemax-batch"),
        ((laboratory / "results", laboratory / "results"), "is a folder"),
        ((laboratory / "manual.csv",), "name MANUAL.csv, RESULTS and --out DIR"),
    ):
        result = invoke("verify", *args, "--out", out)
        assert result.exit_code == 2 and words in result.output, result.output
    assert not out.exists()


def test_an_output_that_cannot_be_written_is_exit_code_6(laboratory, tmp_path, invoke):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "classes.csv").mkdir()
    result = invoke(
        "verify", laboratory / "manual.csv", laboratory / "results", "--out", tmp_path / "v"
    )
    assert result.exit_code == 6 and "cannot be written" in result.output
    assert not (tmp_path / "v" / "verification.json").exists()


def test_the_template_names_the_slides_of_a_folder(laboratory, invoke):
    lines = invoke("verify", "--template", laboratory / "results").output.splitlines()
    assert len(lines) == 1 + 2 * 80 and lines[1].startswith("S001,first,")
    assert len(invoke("verify", "--template").output.splitlines()) == 1


def test_the_same_input_gives_the_same_bytes(laboratory, tmp_path, invoke):
    for name in ("a", "b"):
        assert (
            invoke(
                "verify",
                laboratory / "manual.csv",
                laboratory / "results",
                "--out",
                tmp_path / name,
            ).exit_code
            == 0
        )
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.slow
def test_the_worked_example_runs_and_finds_what_the_simulation_knows(tmp_path):
    """The script that the documentation names, with the package under test as `hemax-batch`."""
    command = tmp_path / "bin" / "hemax-batch"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hemax_batch "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = Path(__file__).parents[2] / "examples" / "laboratory" / "run_example.sh"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(
        [script, tmp_path / "example"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "intervals hold the truth" in done.stdout
    assert (tmp_path / "example" / "monitor" / "monitor.html").is_file()


def test_bands_that_nobody_split_move_no_flag():
    from hemax_batch.laboratory.counts import Count
    from hemax_batch.laboratory.flags import flag_agreements
    from hemax_batch.laboratory.rules import LaboratoryRules

    by_hand = Count("S", "A", 100, {"neutrophils": 60, "lymphocyte": 34, "monocyte": 6})
    by_tool = Count(
        "S",
        "tool",
        100,
        {"band_neutrophil": 20, "segmented_neutrophil": 40, "lymphocyte": 34, "monocyte": 6},
    )
    flags = {f.flag: f for f in flag_agreements([by_hand], [by_tool], LaboratoryRules())}
    assert flags["distribution"].true_negative == 1
    split = flag_agreements([by_tool], [by_tool], LaboratoryRules())
    assert {f.flag: f for f in split}["distribution"].true_positive == 1


def test_names_are_shown_as_text(laboratory, tmp_path, invoke):
    """A slide's name that is HTML stays a name."""
    (tmp_path / "scans.csv").write_text("slide,result\n<b>1</b>,S001\n<i>2</i>,none\n")
    rows = [f"{name},<u>A</u>,100,100" for name in ("<b>1</b>", "<i>2</i>")]
    manual = tmp_path / "manual.csv"
    manual.write_text("\n".join(["slide,examiner,cells,lymphocyte", *rows]))
    args = (manual, laboratory / "results", "--scans", tmp_path / "scans.csv")
    assert invoke("verify", *args, "--out", tmp_path / "v").exit_code == 0
    page = (tmp_path / "v" / "verification.html").read_text()
    assert "&lt;b&gt;1" in page and "&lt;i&gt;2" in page
    assert not any(tag in page for tag in ("<b>", "<i>", "<u>"))


def test_the_documentations_table_is_what_the_example_gives(verified, truth):
    """`docs/laboratory.md` prints figures of the simulated laboratory: exactly these."""
    text = (Path(__file__).parents[2] / "docs" / "laboratory.md").read_text("utf-8")
    for who, key, classes in (
        ("tool", "bias", verified[1]["classes"]),
        ("second examiner", "examiners", verified[1]["between_examiners"]),
    ):
        for name in ("neutrophils", "band_neutrophil", "lymphocytes", "blast"):
            bias = classes[name]["bias"]
            interval = f"{bias['low95']:.2f} to {bias['high95']:.2f}"
            figures = f"{truth['study'][key][name]:.2f} | {bias['value']:.2f} | {interval}"
            assert f"| {who}: {name.replace('_', ' ')} | {figures} |" in text
