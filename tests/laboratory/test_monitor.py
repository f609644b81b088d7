"""Control charts of simulated nights find the drift that was put in, and nothing where none was."""

from __future__ import annotations

import csv
import json
import shutil
from datetime import date, timedelta

import numpy as np
import pytest
import simulated_laboratory as simulated

from hemax_batch.errors import UsageError
from hemax_batch.laboratory.charts import OUT, make_charts, rejection_rate
from hemax_batch.laboratory.measures import MEASURES
from hemax_batch.laboratory.monitor import MonitorOptions, monitor
from hemax_batch.laboratory.nights import (
    Nights,
    SlideTimes,
    read_nights,
    read_pattern,
    read_slide_table,
)
from hemax_batch.laboratory.rules import LaboratoryRules, MonitorRules

BASELINE = ("2026-01-05", "2026-02-08")


@pytest.fixture(scope="module")
def watched(laboratory, tmp_path_factory):
    """The command on all nights: exit code, output, folder."""
    from click.testing import CliRunner

    from hemax_batch.cli.app import main

    out = tmp_path_factory.mktemp("watched") / "m"
    args = [
        "monitor",
        laboratory / "nights",
        "--out",
        out,
        "--baseline",
        *BASELINE,
        "--control",
        "QC-*",
        "--path-pattern",
        simulated.PATH_PATTERN,
    ]
    result = CliRunner().invoke(main, [str(a) for a in args])
    return result.exit_code, result.output, out


@pytest.mark.slow
def test_the_drift_is_found_on_its_scanner_from_its_night_on(watched, truth):
    code, output, out = watched
    assert (
        code == 9 and "out of control: red-cell diameter on scanner B since 6 March 2026" in output
    )
    charts = {
        (c["measure"], c["scanner"], c["control"]): c
        for c in json.loads((out / "monitor.json").read_text())["charts"]
    }
    drift = truth["nights"]["drift"]
    for control in ("", "QC-*"):
        chart = charts[drift["measure"], drift["scanner"], control]
        assert (
            chart["state"] == OUT
            and abs((date.fromisoformat(chart["since"]) - date.fromisoformat(drift["from"])).days)
            <= 2
        )
        assert charts[drift["measure"], "scanner A", control]["state"] != OUT
    assert charts["red_cell_diameter", "scanner A", ""]["centre"] == pytest.approx(7.2, abs=0.03)


def test_the_record_names_what_is_out_of_control_for_cron(watched):
    record = json.loads((watched[2] / "monitor.json").read_text())
    assert record["out_of_control"] and all(
        words in watched[1] for words in record["out_of_control"]
    )
    assert (
        record["slides"] == 90 * 18
        and record["last_night"] == "2026-04-04"
        and record["baseline"] == list(BASELINE)
    )


def test_the_page_is_one_offline_file_that_says_what_it_is(watched):
    page = (watched[2] / "monitor.html").read_text()
    assert "pre-classification, for review by a qualified morphologist; research use only" in page
    assert (
        "What this page does not prove" in page
        and "since 6 March 2026" in page
        and page.count("<svg") > 40
    )
    assert "<script" not in page and "http://" not in page and "https://" not in page


def test_the_table_holds_every_night_of_every_chart(watched):
    with open(watched[2] / "nights.csv", newline="") as file:
        rows = [
            r
            for r in csv.DictReader(file)
            if (r["measure"], r["scanner"], r["control"]) == ("focus", "scanner A", "")
        ]
    assert (
        len(rows) == 90
        and {r["slides"] for r in rows} == {"8"}
        and all(r["sd"] and r["centre"] for r in rows)
    )


def test_nights_before_the_drift_are_in_control(laboratory, tmp_path, invoke):
    """Exit code 0, by slides of the time before; the table of slides gives nights and scanners."""
    root = tmp_path / "results"
    root.mkdir()
    shutil.copy(laboratory / "nights" / "differential.csv", root)
    rows = ["slide,date,scanner"]
    for folder in (laboratory / "nights").glob("2026-0[12]*"):
        shutil.copytree(folder, root / folder.name)
        rows.append(f"{folder.name},{folder.name[:10]},{folder.name[11]}")
    (tmp_path / "slides.csv").write_text("\n".join(rows))
    result = invoke(
        "monitor",
        root,
        "--out",
        tmp_path / "m",
        "--baseline",
        *BASELINE,
        "--slides",
        tmp_path / "slides.csv",
    )
    assert result.exit_code == 0 and result.output.startswith("in control: ")
    quiet = invoke(
        "monitor",
        root,
        "--out",
        tmp_path / "m",
        "--baseline",
        *BASELINE,
        "--slides",
        tmp_path / "slides.csv",
        "-q",
    )
    assert quiet.output == ""


def made_nights(
    values: np.ndarray, measure: str = "red_cell_diameter", scanner: str = "A"
) -> Nights:
    """Nights of one measure: float [nights, slides]."""
    nights, slides = values.shape
    first = date(2026, 1, 1).toordinal()
    columns = {m.name: np.full(values.size, np.nan) for m in MEASURES} | {measure: values.ravel()}
    return Nights(
        tuple(f"S{i}" for i in range(values.size)),
        np.repeat(np.arange(first, first + nights), slides),
        (scanner,) * values.size,
        columns,
        np.full(values.size, 0.1),
        ("v1",) * values.size,
        (),
    )


def chart_of(values: np.ndarray, baseline_nights: int = 30, **options):
    first = date(2026, 1, 1)
    (chart,) = make_charts(
        made_nights(values),
        (first, first + timedelta(days=baseline_nights - 1)),
        MonitorRules(**options),
    )
    return chart


def test_nights_in_control_are_rejected_as_seldom_as_the_page_says():
    """Over many charts, nights of 12 slides with their own spread between nights; the baseline's
    own error adds a little.
    """
    rng = np.random.default_rng(1)
    broken = total = 0
    for _ in range(60):
        values = 7.2 + rng.normal(0, 0.05, (100, 1)) + rng.normal(0, 0.2, (100, 12))
        rejections = [bool(set(found) - {"1_2s"}) for found in chart_of(values).broken[30:]]
        broken, total = broken + sum(rejections), total + len(rejections)
    assert broken / total < 4 * rejection_rate(MonitorRules().rules)


def test_a_night_of_few_slides_has_wider_limits():
    rng = np.random.default_rng(2)
    values = 7.2 + rng.normal(0, 0.2, (60, 12))
    values[50:, 3:] = np.nan
    chart = chart_of(values)
    spread = chart.limits.sd(chart.sampling_sd)
    assert chart.slides[-1] == 3 and spread[-1] == pytest.approx(2 * spread[0], rel=0.25)
    assert len(chart_of(values, least_slides=4).nights) == 50


def test_one_patient_moves_no_night():
    rng = np.random.default_rng(3)
    values = 7.2 + rng.normal(0, 0.1, (60, 12))
    plain = chart_of(values).values[-1]
    values[-1, 0] = 70.0
    assert chart_of(values).values[-1] < plain + 0.1


def test_the_onset_is_the_first_night_of_the_series():
    rng = np.random.default_rng(4)
    values = 7.2 + rng.normal(0, 0.1, (60, 12))
    values[52:] += 0.3
    assert chart_of(values).since == date(2026, 1, 1) + timedelta(days=52)
    values[-1] -= 0.3  # the last night is well again
    assert chart_of(values).state != OUT and chart_of(values, recent_days=1).state == OUT


def test_charts_that_cannot_have_limits_say_why():
    rng = np.random.default_rng(5)
    values = 7.2 + rng.normal(0, 0.1, (40, 12))
    assert chart_of(values, baseline_nights=9).note == "the baseline has 9 nights, 10 are needed"
    assert "same value" in chart_of(np.zeros((40, 12))).note


def test_a_scanner_out_of_use_raises_no_alarm():
    rng = np.random.default_rng(6)
    old = 7.2 + rng.normal(0, 0.1, (60, 12))
    old[38:40] += 2
    old[40:] = np.nan
    both = [
        made_nights(old, scanner="old"),
        made_nights(7.2 + rng.normal(0, 0.1, (60, 12)), scanner="new"),
    ]
    joined = Nights(
        both[0].slides + both[1].slides,
        np.concatenate([b.nights for b in both]),
        both[0].scanners + both[1].scanners,
        {m.name: np.concatenate([b.values[m.name] for b in both]) for m in MEASURES},
        np.concatenate([b.audited_mm2 for b in both]),
        both[0].versions * 2,
        (),
    )
    charts = {
        c.scanner: c
        for c in make_charts(joined, (date(2026, 1, 1), date(2026, 1, 30)), MonitorRules())
    }
    assert charts["old"].state == "idle" and charts["new"].state != OUT


def test_the_share_corrected_is_that_of_the_last_review(laboratory):
    nights = read_nights(laboratory / "results", SlideTimes())
    reviewed = np.isfinite(nights.values["corrected"])
    assert reviewed.sum() == 12 and 2 < nights.values["corrected"][reviewed].mean() < 20


def test_a_change_of_weights_is_marked_and_said(laboratory, tmp_path):
    root = tmp_path / "results"
    for k in range(30):
        night = str(date(2026, 1, 5) + timedelta(days=k))
        for i in range(3):
            shutil.copytree(laboratory / "nights" / f"{night}-A{i:03}", root / f"{night}-A{i:03}")
            path = root / f"{night}-A{i:03}" / "result.json"
            if k >= 20:
                path.write_text(path.read_text().replace('"simulated"', '"others"'))
    (root / "2026-01-05-A000" / "result.json").write_text("{")
    (root / "reviews").mkdir()
    (root / "no slide").mkdir()
    times = SlideTimes({}, read_pattern(simulated.PATH_PATTERN))
    baseline = (date(2026, 1, 5), date(2026, 1, 24))
    watch = monitor(MonitorOptions(root, tmp_path / "m", baseline, LaboratoryRules(), times))
    assert [night for night, _ in watch.changes] == [date(2026, 1, 25)]
    assert watch.nights.unreadable == ("2026-01-05-A000",)
    page = (tmp_path / "m" / "monitor.html").read_text()
    assert "25 January 2026 (weights others" in page and "cannot be read: 2026-01-05-A000" in page


def test_without_a_table_a_slide_belongs_to_the_night_in_which_it_was_written():
    import os
    import time

    morning = time.mktime((2026, 3, 15, 5, 30, 0, 0, 0, -1))
    assert SlideTimes().of("S1", "/any/S1.svs", morning) == (date(2026, 3, 14), "all scanners")
    table = {"S1": (date(2026, 1, 1), "B")}
    assert SlideTimes(table, read_pattern("(?P<scanner>any)")).of(
        "S1", f"{os.sep}any", morning
    ) == (date(2026, 1, 1), "B")


def test_bad_input_is_refused_and_writes_nothing(laboratory, tmp_path, invoke):
    (tmp_path / "empty").mkdir()
    slides = tmp_path / "slides.csv"
    nights, out = laboratory / "nights", tmp_path / "m"
    for table, args, words in (
        ("", (tmp_path / "empty", "--baseline", *BASELINE), "no results of hemax-batch"),
        (
            "",
            (nights, "--baseline", "2020-01-01", "2020-02-01"),
            "no slide is of these nights; there are 20",
        ),
        (
            "",
            (nights, "--baseline", BASELINE[1], BASELINE[0]),
            "the first night lies after the last",
        ),
        ("", (nights, "--baseline", *BASELINE, "--path-pattern", "("), "no regular expression"),
        ("", (nights, "--baseline", *BASELINE, "--path-pattern", "x"), "names no group"),
        (
            "slide,date\nS1,14.3.2026\n",
            (nights, "--baseline", *BASELINE, "--slides", slides),
            "row 2: date '14.3.2026'",
        ),
        (
            "slide,date\nS1,\nS1,\n",
            (nights, "--baseline", *BASELINE, "--slides", slides),
            "row 3: 'S1' is in row 2 already",
        ),
    ):
        slides.write_text(table)
        result = invoke("monitor", *args, "--out", out)
        assert result.exit_code == 2 and words in result.output, result.output
    assert not out.exists()
    with pytest.raises(UsageError, match="is no folder"):
        read_nights(tmp_path / "gone", SlideTimes())
    assert read_slide_table(None) == {}


def test_a_drift_of_all_slides_is_shown_as_large_as_it_is():
    rng = np.random.default_rng(8)
    values = 7.2 + rng.normal(0, 0.1, (60, 12))
    values[-1] += 2.0
    assert chart_of(values).values[-1] == pytest.approx(values[-1].mean())
