"""What the weights that ship reach, drawn from their card: `python examples/plot_card.py OUT.svg` (wants matplotlib)."""

import sys

import matplotlib
from matplotlib.figure import Figure

from hemax_batch.model.checkpoint import read_card

PEOPLE = {"granularity": 0.999, "cytoplasm_colour": 0.954, "nucleus_shape": 0.903, "size_vs_rbc": 0.898,
          "nuclear_cytoplasmic_ratio": 0.976}  # fmt: skip  # two of them agree, WBCAtt (Tsutsui et al. 2023)


def intervals(axis, named: dict, title: str) -> None:
    """One line a figure: its value and its 95 % interval."""
    for y, f in enumerate(named.values()):
        axis.plot([f["low"], f["high"]], [y, y], color="#332288", linewidth=1.2)
        axis.plot(f["value"], y, "o", color="#332288", markersize=5)
        axis.text(
            0.01,
            y,
            f" n {f['n']}",
            transform=axis.get_yaxis_transform(),
            fontsize=7,
            color="#777777",
            va="center",
        )
    axis.set_yticks(range(len(named)), [name.replace("_", " ") for name in named], fontsize=8)
    axis.set_xlim(0.3, 1.02)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(title, fontsize=9)


matplotlib.rcParams |= {"svg.hashsalt": "hemax", "svg.fonttype": "none"}  # the same file again
metrics = read_card().metrics
figure = Figure(figsize=(13, 3.6), layout="constrained")
left, middle, right = figure.subplots(1, 3)
intervals(left, metrics["all"]["classes"]["recall by class"], "recall by class, held-out images")
intervals(
    middle,
    {
        name: of["classes"]["accuracy"]
        for name, of in metrics["by source"].items()
        if "accuracy" in of.get("classes", {})
    },
    "class right, by source",
)
attributes = {
    name: of["accuracy"] for name, of in metrics["all"]["attributes"].items() if name in PEOPLE
}
intervals(right, attributes, "attributes; | = two people agree")
for y, name in enumerate(attributes):
    right.plot(PEOPLE[name], y, "|", color="#EE8866", markersize=14, markeredgewidth=2)
figure.savefig(sys.argv[1], metadata={"Date": None})
