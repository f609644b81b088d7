"""`fhir.json`: the differential as a FHIR R4 (R4B) DiagnosticReport of status `preliminary`, its Observations contained.

Built by fhir.resources, so what is written satisfies the schema. Only LOINC codes that were verified are given; the
rest is text. There is no patient here and no time of day: the laboratory's own system adds both.
"""

from __future__ import annotations

from pathlib import Path

from fhir.resources.R4B.diagnosticreport import DiagnosticReport

from ..review.load_results import load_differential, load_record
from ..vocabulary import CLAIM

_LOINC = "http://loinc.org"
_UCUM = "http://unitsofmeasure.org"


def write(path: Path, folder: Path) -> None:
    """Write the report of the slide's results in `folder`. ResultsError where they cannot be read back."""
    path.write_text(report(folder).model_dump_json(indent=1) + "\n", encoding="utf-8")


def report(folder: Path) -> DiagnosticReport:
    """The DiagnosticReport; per cents are of white cells, limits exact 95 % (Clopper-Pearson)."""
    record, d = load_record(folder), load_differential(folder)
    observations = [_observation(i, entry) for i, entry in enumerate(d["classes"])]
    red = d["nucleated_red_cells"]
    smudge = d["smudge_cells"]
    extra = [
        ("Nucleated red cells per 100 white cells", red["per_100_white"], "/100{WBCs}"),
        (
            "Smudge cells per 100 white cells",
            smudge["per_100_white"],
            "/100{WBCs}",
            smudge["loinc"],
        ),
        ("White cells counted", d["white_cells"], "{cells}"),
        ("Unidentified cells, not counted", d["unidentified"], "{cells}"),
    ]
    observations += [
        _resource(len(observations) + k, _coded(words, *loinc), _quantity(value, unit))
        for k, (words, value, unit, *loinc) in enumerate(extra)
    ]
    return DiagnosticReport.model_validate(
        {
            "resourceType": "DiagnosticReport",
            "contained": [
                {
                    "resourceType": "Specimen",
                    "id": "smear",
                    "identifier": [{"system": "urn:hemax-batch:slide", "value": record.slide_id}],
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


def _coded(words: str, *loinc: str) -> dict:
    """A text, with a LOINC code where one was verified."""
    code = _text(words)
    if loinc:
        code["coding"] = [{"system": _LOINC, "code": loinc[0]}]
    return code


def _by_error(entry: dict) -> tuple[tuple[str, float, str], ...]:
    """How many calls of a class error alone would give; nothing where that is not known."""
    if entry["expected_false"] is None:
        return ()
    return (
        ("Cells expected by error", entry["expected_false"], "{cells}"),
        ("Cells expected by error, 95 % limit, upper", entry["expected_false_high95"], "{cells}"),
    )


def _observation(i: int, entry: dict) -> dict:
    """A class: its per cent, its limits and count as components, its reference range."""
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


def _resource(i: int, code: dict, value: dict) -> dict:
    return {
        "resourceType": "Observation",
        "id": f"o{i}",
        "status": "preliminary",
        "code": code,
        "specimen": {"reference": "#smear"},
        **value,
    }


def _text(words: str) -> dict:
    return {"text": words}


def _quantity(value: float | None, unit: str) -> dict:
    """The value, or that there is none (FHIR's data-absent reason)."""
    if value is None:
        system = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
        return {"dataAbsentReason": {"coding": [{"system": system, "code": "not-applicable"}]}}
    return {"valueQuantity": _amount(value, unit)}


def _amount(value: float, unit: str) -> dict:
    return {"value": value, "unit": unit, "system": _UCUM, "code": unit}
