"""The laboratory's limits: every entry of the printed file is read, and what is wrong is told by
entry.
"""

from __future__ import annotations

import pytest

from hemax_batch.errors import UsageError
from hemax_batch.laboratory.rules import TEMPLATE, LaboratoryRules, read_rules


def test_the_printed_rules_are_read_and_defaults_hold_without(invoke, tmp_path):
    path = tmp_path / "laboratory.toml"
    path.write_text(invoke("verify", "--print-rules").output)
    rules = read_rules(path)
    assert path.read_text() == TEMPLATE.read_text()
    assert rules.least_slides == 50 and len(rules.acceptance) > 10 and len(rules.sha256) == 64
    assert rules.ranges == LaboratoryRules().ranges and rules.abnormal == LaboratoryRules().abnormal
    assert rules.monitor.rules == LaboratoryRules().monitor.rules and set(
        rules.monitor.alarm
    ) <= set(LaboratoryRules().monitor.alarm)
    assert {limit.words for limit in rules.acceptance} >= {
        "within ±4",
        "at least 0.9",
        "0.9 to 1.1",
    }
    assert read_rules(None) == LaboratoryRules() and not LaboratoryRules().acceptance


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("limits = 1", "unknown entry 'limits'"),
        (
            "[acceptance.biass]\nblast = 1",
            "[acceptance] unknown entry 'biass'; do you mean 'bias'?",
        ),
        ("[acceptance.bias]\nblasts = 1", "do you mean 'blast'?"),
        ("[acceptance.bias]\nblast = -1", "expected a number from 0 on"),
        ("[acceptance.slope]\nblast = 1", "expected [low, high]"),
        ("[acceptance]\nslides = 1.5", "expected a whole number"),
        ("[ranges]\nmonocyte = [9, 1]", "expected [low, high]"),
        ("[ranges]\nmonocyte = [9, 101]", "per cents from 0 to 100"),
        ("ranges = 3", "expected a table [ranges]"),
        ("[monitor]\nrules = ['1_2s']", "unknown name '1_2s'"),
        ("[monitor]\nalarm = 'focus'", "expected a list of names"),
        ("set_on = '1.11.2026'", "expected a day without quotes"),
        ("set_on", "cannot be read as TOML"),
    ],
)
def test_entries_that_do_not_hold_are_refused(tmp_path, text, words):
    path = tmp_path / "laboratory.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_rules(path)
    assert words in str(refused.value) and str(path) in str(refused.value)
