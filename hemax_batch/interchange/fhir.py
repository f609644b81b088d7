"""Write `fhir.json`: the differential as a preliminary FHIR R4 (R4B) DiagnosticReport with its Observations.

fhir.resources builds it, so it satisfies the schema. Only verified LOINC codes are given. Other codes are text.
It holds no patient and no time: the laboratory's own system adds both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fhir.resources.R4B.diagnosticreport import DiagnosticReport

from ..review.load_results import load_differential, load_record
from ..vocabulary import CLAIM

_LOINC = "http://loinc.org"
_UCUM = "http://unitsofmeasure.org"


def write(path: Path, folder: Path) -> None:
    """Write the report of the slide's results in `folder`. Unreadable results raise ResultsError."""
    path.write_text(report(folder).model_dump_json(indent=1) + "\n", encoding="utf-8")


def report(folder: Path) -> DiagnosticReport:
    """Return the DiagnosticReport. Per cents are of white cells. Limits are exact 95 % (Clopper-Pearson)."""
    record, d = load_record(folder), load_differential(folder)
    observations = [_observation(i, entry) for i, entry in enumerate(d["classes"])]
    red = d["nucleated_red_cells"]
    smudge = d["smudge_cells"]
    extra: list[tuple[str, float | None, str, list[Any]]] = [
        ("Nucleated red cells per 100 white cells", red["per_100_white"], "/100{WBCs}", []),
        (
            "Smudge cells per 100 white cells",
            smudge["per_100_white"],
            "/100{WBCs}",
            [smudge["loinc"]],
        ),
        ("White cells counted", d["white_cells"], "{cells}", []),
        ("Unidentified cells, not counted", d["unidentified"], "{cells}", []),
    ]
    observations += [
        _resource(len(observations) + k, _coded(words, *loinc), _quantity(value, unit))
        for k, (words, value, unit, loinc) in enumerate(extra)
    ]
    return DiagnosticReport.model_validate(
        {
            "resourceType": "DiagnosticReport",
            "contained": [
                {
                    "resourceType": "Specimen",
                    "id": "smear",
                    "identifier": [{"system": "urn:hemax-batch:slide", "value": record.slide_id}],
                    **(
                        {"accessionIdentifier": {"value": record.sample_id}}
                        if record.sample_id
                        else {}
                    ),
                },
                *observations,
            ],
            "status": "preliminary",
            "category": [
                {
                    "coding": [
                        {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "HM"}
                    ]
                }
            ],
            "code": _text(
                "Differential count of white blood cells, from an image of a blood smear"
            ),
            "specimen": [{"reference": "#smear"}],
            "result": [{"reference": f"#{o['id']}"} for o in observations],
            "conclusion": ". ".join(
                [CLAIM[0].upper() + CLAIM[1:], *(flag["words"] for flag in d["flags"])]
            ),
        }
    )


def _coded(words: str, *loinc: str) -> dict[str, Any]:
    """Return a text, with a LOINC code if one was verified."""
    code = _text(words)
    if loinc:
        code["coding"] = [{"system": _LOINC, "code": loinc[0]}]
    return code


def _by_error(entry: dict[str, Any]) -> tuple[tuple[str, float, str], ...]:
    """Return the calls of a class that error alone would give; empty if they are not known."""
    if entry["expected_false"] is None:
        return ()
    return (
        ("Cells expected by error", entry["expected_false"], "{cells}"),
        ("Cells expected by error, 95 % limit, upper", entry["expected_false_high95"], "{cells}"),
    )


def _observation(i: int, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a class: per cent, limits and count as components, and the reference range."""
    words = f"{entry['words'][0].upper()}{entry['words'][1:]}, per 100 white cells"
    code = _coded(words, *([entry["loinc"]] if "loinc" in entry else []))
    resource = _resource(i, code, _quantity(entry["percent"], "%"))
    figures = (
        ("95 % limit, lower (exact)", entry["low95"], "%"),
        ("95 % limit, upper (exact)", entry["high95"], "%"),
        ("Cells counted", entry["count"], "{cells}"),
        *_by_error(entry),
    )
    resource["component"] = [
        {"code": _text(words), **_quantity(value, unit)} for words, value, unit in figures
    ]
    if "reference_percent" in entry:
        low, high = entry["reference_percent"]
        resource["referenceRange"] = [{"low": _amount(low, "%"), "high": _amount(high, "%")}]
    return resource


def _resource(i: int, code: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"o{i}",
        "status": "preliminary",
        "code": code,
        "specimen": {"reference": "#smear"},
        **value,
    }


def _text(words: str) -> dict[str, Any]:
    return {"text": words}


def _quantity(value: float | None, unit: str) -> dict[str, Any]:
    """Return the value, or FHIR's data-absent reason."""
    if value is None:
        system = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
        return {"dataAbsentReason": {"coding": [{"system": system, "code": "not-applicable"}]}}
    return {"valueQuantity": _amount(value, unit)}


def _amount(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit}
