"""Fill the figures of README.md and docs/*.md: `python docs/fill_figures.py [--check]`.

A figure is written once: in the header of the weights that ship, or in a file of docs/evidence/.
This script writes the text between the marks `<!-- figures NAME -->` and `<!-- end figures -->`.
It also draws examples/figures.svg where matplotlib is installed. A test runs it with --check.

    python docs/fill_figures.py            # after new weights or new evidence
    python docs/fill_figures.py --check    # exit code 1 where a page is out of date
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hemax_batch.learning.evaluation.metrics import flatten_report
from hemax_batch.learning.evaluation.model_card import SOURCES, _commands, _training_lengths
from hemax_batch.model.checkpoint import read_card

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
CARD = read_card()
ALL = CARD.metrics["all"]
BY_SOURCE = CARD.metrics["by source"]
ATTRIBUTES = {
    "granularity": "granularity",
    "cytoplasm_colour": "cytoplasm colour",
    "nucleus_shape": "nucleus shape",
    "size_vs_rbc": "size against red cells",
    "nuclear_cytoplasmic_ratio": "N:C low or high",
}
Figure = dict[str, Any] | float


def evidence(name: str) -> dict[str, Any]:
    """One file of docs/evidence: the command, its figures, and where they come from."""
    return json.loads((ROOT / "docs" / "evidence" / f"{name}.json").read_text("utf-8"))


def provenance(name: str) -> str:
    """The line under a table: the command, the machine, and whose weights were measured."""
    e = evidence(name)
    parts = [f"Evidence: `docs/evidence/{name}.json`, written by `{e['command']}`."]
    if e["hardware"]:
        parts.append(f"Machine: {e['hardware']}.")
    if e["weights_sha256"] and e["weights_sha256"] != CARD.sha256:
        parts.append(f"Measured with earlier weights (SHA-256 `{e['weights_sha256'][:12]}`).")
    elif not e["weights_sha256"] and "No shipped weights" not in e["note"]:
        parts.append("The weights were not recorded.")
    if e["source"]:
        parts.append(f"The figures come from the {e['source']}.")
    return " ".join([*parts, e["note"]]).strip()


def value(figure: Figure | None, decimals: int = 3) -> str:
    """A figure as text; a dash where there is none."""
    if figure is None:
        return "–"
    return f"{figure['value'] if isinstance(figure, dict) else figure:.{decimals}f}"


def limits(figure: Figure | None, decimals: int = 3) -> str:
    """The 95 % interval as text."""
    if not isinstance(figure, dict) or "low" not in figure:
        return "–"
    return f"{figure['low']:.{decimals}f} to {figure['high']:.{decimals}f}"


def both(figure: Figure | None) -> str:
    """A figure with its interval in brackets."""
    return value(figure) + (f" ({limits(figure)})" if limits(figure) != "–" else "")


def count(figure: Figure | None) -> str:
    """How many cells a figure rests on."""
    return f"{figure['n']:,}" if isinstance(figure, dict) and "n" in figure else "–"


def table(head: str, rows: list[tuple[str, ...]]) -> str:
    """A Markdown table. `head` holds the titles, separated by `|`."""
    titles = [title.strip() for title in head.split("|")]
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(words: str, figure: Figure | None, baseline: float | None = None) -> tuple[str, ...]:
    return words, value(figure), limits(figure), count(figure), value(baseline)


FIGURE_HEAD = "figure | value | 95 % interval | cells | always the commonest class"


def readme() -> str:
    """The five figures of the first page."""
    classes, n = ALL["classes"], len(ALL["classes"]["recall by class"])
    rows = [
        _row(f"class, mean recall over {n} classes", classes["balanced accuracy"], 1 / n),
        _row("five mature types, as analysers count them", ALL["five mature types"]["accuracy"]),
        _row("blasts found (sensitivity)", classes["blast sensitivity"], 0.0),
        _row("white cells found (box IoU at least 0.5)", ALL["recall"]),
    ]
    if by_patient := CARD.metrics.get("by patient"):
        words = "seven classes, leukaemia patients who were not trained on (interval over patients)"
        rows.append(_row(words, by_patient["seven trusted classes, right"]))
    else:
        other = evidence("transfer")["figures"]["zheng1"]
        words = "class, a laboratory that a short training never saw"
        rows.append(_row(words, other["accuracy"], other["majority"]))
    return table(FIGURE_HEAD, rows)


def card_main() -> str:
    """The main figures of the weights that ship."""
    classes, masks, boxes = ALL["classes"], ALL["masks"], ALL["localisation, COCO"]
    confidence = next((v for k, v in ALL.items() if k.startswith("confidence")), {})
    n = len(classes["recall by class"])
    rows = [
        _row("class, all sources", classes["accuracy"], classes["majority baseline"]),
        _row(f"class, mean recall over {n} classes", classes["balanced accuracy"], 1 / n),
        _row("class, macro F1", classes["macro F1"]),
        _row("five mature types", ALL["five mature types"]["accuracy"]),
        _row("blasts: sensitivity", classes["blast sensitivity"]),
        _row("blasts: specificity", classes["blast specificity"]),
        _row("white cells found (box IoU at least 0.5)", ALL["recall"]),
        _row("box IoU (Jaccard)", ALL["jaccard"]),
        *(_row(f"box {name} (COCO)", boxes.get(name)) for name in ("AP", "AP50", "AP75")),
        _row("nucleus Dice, expert masks", masks["nucleus dice"]),
        _row("whole-cell Dice, expert masks", masks["cell dice"]),
        _row("nucleus/cell, NMSE", masks["nucleus/cell nmse"]),
        _row("nucleus/cell, NMSE over the variance", _variance_nmse(masks)),
        _row("calibration error", confidence.get("ece")),
        _row("share of cells sent to review", confidence.get("asked to review")),
        _row("wrong classes that review catches", confidence.get("errors that review catches")),
    ]
    return table(FIGURE_HEAD, rows)


def _variance_nmse(masks: dict[str, Any]) -> Figure | None:
    return masks.get("nucleus/cell nmse, variance-normalised")


def card_classes() -> str:
    """Recall by class."""
    rows = [
        (name.replace("_", " "), value(f), limits(f), count(f))
        for name, f in ALL["classes"]["recall by class"].items()
    ]
    return table("class | recall | 95 % interval | cells", rows)


def card_sources() -> str:
    """The class by source."""
    rows = []
    for source, metrics in BY_SOURCE.items():
        classes = metrics.get("classes", {})
        if "accuracy" in classes:
            baseline = classes.get("majority baseline")
            rows.append(_row(source, classes["accuracy"], baseline))
    return table(FIGURE_HEAD.replace("figure", "source"), rows)


def card_attributes() -> str:
    """The attributes, beside the agreement of two people."""
    rows = []
    for name, words in ATTRIBUTES.items():
        if metrics := ALL["attributes"].get(name):
            row = _row(words, metrics["accuracy"], metrics["majority baseline"])
            people, balanced = metrics.get("two people agree"), metrics.get("balanced accuracy")
            rows.append((*row, both(balanced), value(people)))
    return table(f"{FIGURE_HEAD} | mean recall of states | two people agree", rows)


def card_training() -> str:
    """The commands that made the weights, and how long each took."""
    trained = CARD.trained
    lengths = "\n".join(f"{i}. {text}" for i, text in enumerate(_training_lengths(trained), 1))
    commands = "\n".join(f"    {command}" for command in _commands(trained))
    return f"{commands}\n\n{lengths}"


def card_data() -> str:
    """The images that the weights learnt from."""
    rows = [(f"{n:,}", SOURCES.get(s, s)) for s, n in CARD.trained["images"].items()]
    return table("images | source and licence", rows)


def card_identity() -> str:
    """Which weights ship, and the thresholds fitted to them."""
    return (
        f"Weights `{CARD.arch}`, SHA-256 `{CARD.sha256}`, {CARD.mpp:g} µm/px. "
        f"Temperature {CARD.temperature:g}; threshold of `unidentified` {CARD.min_confidence:g}."
    )


def card_unfamiliar() -> str:
    """How many cells the out-of-distribution score flags."""
    found = next((v for k, v in CARD.metrics.items() if k.startswith("unfamiliar")), {}) or {}
    rows = [
        (name.replace(" / ", ", "), f"{v:.3f}", f"{low:.3f} to {high:.3f}", f"{n:,}")
        for name, v, low, high, n in flatten_report(found)
        if n
    ]
    return table("cells | share flagged | 95 % interval | cells measured", rows)


def slide_rates() -> str:
    """How often slides with and without blasts are flagged."""
    rows = [
        (
            rate["source"],
            rate["table"],
            f"{rate['blasts']:.0%}",
            both(rate["flagged"]),
            value(rate["any_blast"]),
            f"{rate['called']:.1f}",
            f"{rate['expected']:.1f}",
        )
        for rate in evidence("slide_rates")["figures"]["rates"]
    ]
    head = (
        "source | errors of | true blasts | flagged | any blast called | called | expected by error"
    )
    return table(head, rows) + "\n\n" + provenance("slide_rates")


def faithfulness() -> str:
    """What a change of one attribute does."""
    figures = evidence("faithfulness")["figures"]
    control = figures.get("interventions, random explanation heads (control)", {})
    rows = []
    for name, f in figures["interventions"].items():
        right = control.get(name, {}).get("moves the right way")
        rows.append(
            (name, both(f["moves the right way"]), both(f.get("others stay")), value(right))
        )
    head = "change | moves the right way (95 %) | other attributes stay (95 %) | control"
    return f"{table(head, rows)}\n\n{provenance('faithfulness')}"


def faithfulness_regions() -> str:
    """What taking pixels away, and giving them back, does to the class."""
    figures = evidence("faithfulness")["figures"]
    places = [p for p in figures["deletion"] if "more than" not in p]
    rows = [(p, both(figures["deletion"][p]), both(figures["insertion"].get(p))) for p in places]
    return table("place | probability after deletion | probability after insertion", rows)


def concept_path() -> str:
    """How well the explanation alone gives the class."""
    path = evidence("faithfulness")["figures"]["concept path"]
    names = {
        "accuracy": "right class from the explanation alone",
        "direct accuracy": "right class from the network",
        "agrees with the direct class": "both give the same class",
        "accuracy, labels shuffled (control)": "right class, labels shuffled (control)",
    }
    rows = [(words, both(path[name])) for name, words in names.items() if name in path]
    for name, lost in path["lost when blanked"].items():
        rows.append((f"lost without {name.replace('_', ' ')}", both(lost)))
    return table("figure | value (95 %)", rows)


def faithfulness_shuffled() -> str:
    """The control: a network that was taught shuffled labels."""
    figures = evidence("faithfulness_shuffled")["figures"]
    rows = [(name, value(v, 2)) for name, v in figures["interventions"].items()]
    head = table("change | moves the right way", rows)
    return f"{head}\n\n{provenance('faithfulness_shuffled')}"


def transfer() -> str:
    """Each source left out of a short training, then measured."""
    rows = []
    for source, f in evidence("transfer")["figures"].items():
        found = f.get("recall") or f.get("found")
        taught = f.get("accuracy_taught")
        rows.append(
            (source, both(found), both(f.get("accuracy")), both(taught), value(f.get("majority")))
        )
    head = "left out | white cells found | class right | of classes that others teach"
    head += " | always the commonest class"
    return f"{table(head, rows)}\n\n{provenance('transfer')}"


def stain_variation() -> str:
    """What wider variation of stains in training does for sources left out."""
    rows = []
    for stain, f in evidence("stain_variation")["figures"].items():
        found = ", ".join(f"{s} {v:.3f}" for s, v in f["found"].items())
        rows.append((stain, found, ", ".join(f"{s} {v:.3f}" for s, v in f["types"].items())))
    head = table("`--stain` | white cells found | class right", rows)
    return f"{head}\n\n{provenance('stain_variation')}"


def compare() -> str:
    """HemaX with and without explanations, and plain classifiers."""
    return _comparison("compare")


def compare_coarse() -> str:
    """The same at half the resolution."""
    return _comparison("compare_coarse")


def _comparison(name: str) -> str:
    rows = []
    for model, f in evidence(name)["figures"]["models"].items():
        row = (both(f["accuracy"]), value(f.get("balanced accuracy")))
        rows.append((model, *row, both(f.get("hemax-s less this"))))
    head = table("model | class right | mean recall of classes | `hemax-s` minus this", rows)
    return f"{head}\n\n{provenance(name)}"


def test_time_augmentation() -> str:
    """The figures without a second prediction for unsure cells."""
    figures = evidence("test_time_augmentation")["figures"]
    rows = [(name, value(v)) for name, v in figures.items()]
    head = table("without it | value", rows)
    return f"{head}\n\n{provenance('test_time_augmentation')}"


def benchmark() -> str:
    """What a run costs, against its own parts."""
    rows = []
    for s in evidence("benchmark")["figures"]["slides"]:
        rows.append(
            (
                f"{s['px']:,} × {s['px']:,}",
                f"{s['cells']}",
                f"{s['run_s']:.1f} s",
                f"{s['reading_s']:.1f} s",
                f"{s['network_s']:.1f} s",
                f"{s['run/(reading+network)']:.1f}",
                f"{s['plain/run']:.1f}",
                f"{s['openslide/reading']:.1f}",
                f"{s['to_first_look_s']:.1f} s",
                f"{s['after_last_region_s']:.1f} s",
                f"{s['peak_mb']:,} MB",
            )
        )
    head = "slide, px | cells | run | reading alone | network alone | run / (reading + network)"
    head += " | plain loop / run | OpenSlide / our reading | until the first tile"
    head += " | after the last region | peak memory"
    return f"{table(head, rows)}\n\n{provenance('benchmark')}"


def engines() -> str:
    """PyTorch and OpenVINO on the second slide."""
    f = evidence("benchmark")["figures"]
    low, high = f["torch_run_s"]
    core_low, core_high = f["torch_network_core_s"]
    rows = [
        ("PyTorch", f"{low} to {high} s", f"{core_low} to {core_high} core-seconds"),
        ("OpenVINO", f"{f['openvino_run_s']} s", f"{f['openvino_network_core_s']} core-seconds"),
    ]
    return table("engine | run, second slide | network", rows)


def cpu_cost() -> str:
    """CPU-seconds of a run by stage, before and after the engine and the patch size changed."""
    f = evidence("cpu_cost")["figures"]
    stages = ("network", "loading", "drawing", "cutting", "pictures", "outlines", "other", "all")
    rows = [
        (row["slide"], row["when"], *(f"{row.get(stage, 0):.2f}" for stage in stages))
        for row in f["stages"]
    ]
    head = table(" | ".join(("slide", "when", *stages)), rows)
    names = {
        "torch320": "PyTorch f32, 320 px",
        "bf16_320": "OpenVINO bf16, 320 px",
        "bf16_256": "OpenVINO bf16, 256 px",
    }
    cells = [
        (
            names[name],
            f"{c['cpu_s']:.1f} s",
            f"{c['classes that differ from PyTorch f32, 320 px']} of {c['cells']}",
            *(f"{c[key]:.3f}" for key in ("accuracy", "recall", "nucleus dice", "cell dice")),
        )
        for name, c in f["labelled cells"].items()
    ]
    columns = "network | CPU time | classes changed | accuracy | recall | nucleus Dice | cell Dice"
    return f"{head}\n\n{table(columns, cells)}\n\n{provenance('cpu_cost')}"


def peer() -> str:
    """A peer with the same network on the same slide."""
    f = evidence("peer")["figures"]
    rows = [
        ("run time", f"{f['run_s']} s, {f['times_our_run']} times ours"),
        ("run time without overlapping patches", f"{f['times_without_overlap']} times ours"),
        ("CPU time", f"{f['cpu_s']} s against {f['our_cpu_s']} s"),
        ("peak memory", f"{f['peak_gb']} GB"),
    ]
    head = table(f"{f['peer']} | value", rows)
    return f"{head}\n\n{provenance('peer')}"


def merging() -> str:
    """Merging and writing a very large slide."""
    f = evidence("merging")["figures"]
    rows = [
        ("cells", f"{f['cells']:,}"),
        ("slide", f"{f['width_px']:,} × {f['height_px']:,} px"),
        ("time", f"{f['seconds']} s, {f['core_ms_per_cell']} ms of a core per cell"),
        ("peak memory, all processes", f"{f['peak_mb']:,} MB"),
    ]
    return f"{table('merging and writing | value', rows)}\n\n{provenance('merging')}"


def whole_slide() -> str:
    """Recall on a slide that was laid out from photographed fields."""
    f = evidence("whole_slide")["figures"]
    rows = [
        ("labelled white cells found", f"{f['recall']:.2f} of {f['labelled_white_cells']}"),
        ("mean IoU of their boxes", f"{f['mean_iou']:.2f}"),
        ("class right, where it is known", f"{f['known_type_right']:.2f} of {f['known_type_n']}"),
        ("cells reported", f"{f['cells_found']}, {f['unidentified']} of them unidentified"),
        ("touch a labelled cell", f"{f['touch_a_labelled_cell']} of {f['other_cells']}"),
    ]
    return f"{table('figure | value', rows)}\n\n{provenance('whole_slide')}"


BLOCKS: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        readme, card_main, card_classes, card_sources, card_attributes, card_training, card_data,
        card_identity, card_unfamiliar, slide_rates, faithfulness, faithfulness_regions, concept_path,
        faithfulness_shuffled, transfer, stain_variation, compare, compare_coarse,
        test_time_augmentation, benchmark, engines, cpu_cost, peer, merging, whole_slide,
    )
}  # fmt: skip
_MARKED = re.compile(r"(<!-- figures (\w+) -->\n).*?(<!-- end figures -->)", re.S)


def filled(text: str) -> str:
    """The text with every marked block written anew."""
    return _MARKED.sub(lambda m: f"{m[1]}\n{BLOCKS[m[2]]()}\n\n{m[3]}", text)


def main() -> int:
    """Write the pages, or check them with --check."""
    check, stale = "--check" in sys.argv[1:], []
    for page in PAGES:
        text = page.read_text("utf-8")
        if (new := filled(text)) != text:
            stale.append(page.name)
            if not check:
                page.write_text(new, "utf-8")
    if not check and importlib.util.find_spec("matplotlib"):
        drawn = [ROOT / "examples" / name for name in ("plot_card.py", "figures.svg")]
        subprocess.run([sys.executable, *map(str, drawn)], check=True)
    print(f"{'out of date' if check else 'written'}: {', '.join(stale) or 'none'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
