"""Checkpoints: weights as safetensors, with a card in the header.

The header's `data_sha256` is the SHA-256 of the tensor bytes, so damage is found when the file is
read. The shipped weights' file hash is also stored beside them (`weights/SHA256SUMS`). Reading a
card needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import vocabulary
from ..bounded_files import parse_json
from ..errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from .hemax import HemaX
    from .out_of_distribution import OodDetector

FORMAT = "hemax-batch weights 1"
SHIPPED = Path(__file__).parent / "weights" / "hemax-s.safetensors"
CHECKSUMS = SHIPPED.parent / "SHA256SUMS"
_MAX_HEADER = 1 << 20
#: Prefixes of tensor names in earlier versions, and the current prefixes.
_RENAMED = {
    "fine_look.": "roi_refinement.",
    "gist.": "roi_context.",
    "tint.": "cytoplasm_colour_head.",
    "known.": "ood.",
}


@dataclass(frozen=True)
class WeightsCard:
    """Description of a checkpoint.

    Attributes
    ----------
    path, sha256 : str
        The file and its hash.
    arch : str
        Name of the architecture.
    mpp : float
        Working scale in µm/px.
    patch_px : int
        Side of a patch.
    n_queries : int
        Number of queries.
    temperature : float
        Divides the class logits; fitted on held-out data, 1 for none.
    min_confidence : float
        Below this probability a cell is `unidentified`.
    trained : dict
        Training: command, seed, steps, minutes, data sets and licences.
    metrics : dict
        Results of `evaluate`.
    unknown_classes : tuple of str
        Classes of the vocabulary that the weights never predict.
    """

    path: str
    sha256: str
    arch: str
    mpp: float
    patch_px: int
    n_queries: int
    temperature: float
    min_confidence: float
    trained: dict[str, Any]
    metrics: dict[str, Any]
    unknown_classes: tuple[str, ...] = ()


def _hash(path: Path, start: int = 0) -> str:
    """Return the SHA-256 of a file from a position on."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        f.seek(start)
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Read a safetensors header: its metadata, and the position of the tensor bytes."""
    try:
        with open(path, "rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if not 2 <= length <= _MAX_HEADER:
                raise WeightsError(
                    f"{path}: not a safetensors file (its header claims {length} bytes)"
                )
            header = parse_json(f.read(length), finite=False)
            if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
                raise ValueError("its header is no table")
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}); give weights with --weights"
        ) from error
    except ValueError as error:
        raise WeightsError(f"{path}: not a safetensors file, or damaged ({error})") from error
    return header.get("__metadata__") or {}, 8 + length


def read_card(path: str | Path | None = None) -> WeightsCard:
    """Read the card of a checkpoint, and check its hashes and vocabulary.

    Parameters
    ----------
    path
        Checkpoint; None for the shipped weights.

    Raises
    ------
    WeightsError
        The file is missing, damaged, of another format or of another vocabulary.
    """
    path = Path(path) if path else SHIPPED
    try:
        stat = os.stat(path)
    except OSError as error:
        raise WeightsError(
            f"{path}: no such weights ({error.strerror}); give a file with --weights"
        ) from error
    return _read_card(path.resolve(), stat.st_mtime_ns, stat.st_size)


def labels_were_shuffled(trained: dict[str, Any]) -> bool:
    """Return whether any training in a card's `trained` was a control with shuffled labels."""
    before = trained.get("before")
    return bool(trained.get("labels_shuffled") or (before and labels_were_shuffled(before)))


def reject_shuffled_labels(card: WeightsCard) -> WeightsCard:
    """Return the card; raise WeightsError if the weights are a control with shuffled labels."""
    if labels_were_shuffled(card.trained):
        raise WeightsError(
            f"{card.path}: its card says that labels were shuffled in its training. It is a control for `evaluate` and "
            "`faithfulness`, and its classes mean nothing. Use other weights."
        )
    return card


@lru_cache(maxsize=8)
def _read_card(path: Path, _mtime: int, _size: int) -> WeightsCard:
    """Read and check a card; modification time and size are keys of the cache."""
    meta, start = _header(path)
    if meta.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: format {meta.get('format')!r}, expected {FORMAT!r}; these are not weights of this version"
        )
    unknown = _unknown_classes(path, meta)
    found = _hash(path, start)
    if found != meta.get("data_sha256"):
        raise WeightsError(
            f"{path}: damaged: tensor data hash {found[:12]}…, header says {str(meta.get('data_sha256'))[:12]}…"
        )
    sha256 = _hash(path)
    _check_checksums(path, sha256)
    try:
        card = parse_json(meta["card"], finite=False)
        return WeightsCard(path=str(path), sha256=sha256, unknown_classes=unknown, **card)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its card is incomplete ({error})") from error


def _unknown_classes(path: Path, meta: dict[str, Any]) -> tuple[str, ...]:
    """Return the vocabulary's classes that the weights lack.

    Older weights know fewer classes. Their classes are mapped by name, and the others are never
    called.

    Raises
    ------
    WeightsError
        If the weights have a class or an attribute state that this version lacks.
    """
    if meta.get("vocabulary") == vocabulary.fingerprint():
        return ()
    try:
        classes, attributes = parse_json(meta["classes"]), parse_json(meta["attributes"])
        known = {name: list(states) for name, states in attributes.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        classes, known = [], {}
    if (
        not classes
        or set(classes) - set(vocabulary.CLASS_NAMES)
        or known != {a.name: list(a.states) for a in vocabulary.ATTRIBUTES}
    ):
        raise WeightsError(
            f"{path}: its vocabulary is {str(meta.get('vocabulary'))[:12]}…, this program's "
            f"{vocabulary.fingerprint()[:12]}…; "
            "use the weights that came with this version, or train again"
        )
    return tuple(name for name in vocabulary.CLASS_NAMES if name not in classes)


def _check_checksums(path: Path, sha256: str) -> None:
    """Compare the hash of shipped weights with SHA256SUMS."""
    if path.parent != CHECKSUMS.parent.resolve() or not CHECKSUMS.exists():
        return
    for line in CHECKSUMS.read_text().splitlines():
        expected, name = line.split()
        if name == path.name and expected != sha256:
            raise WeightsError(
                f"{path}: SHA-256 {sha256[:12]}…, {CHECKSUMS.name} says {expected[:12]}…; install the package again"
            )


def save(
    model: HemaX,
    path: str | Path,
    *,
    mpp: float,
    patch_px: int,
    temperature: float,
    min_confidence: float,
    trained: dict[str, Any],
    metrics: dict[str, Any],
    ood_detector: OodDetector | None = None,
) -> WeightsCard:
    """Write a network's weights and card; the file is written aside and renamed.

    Weights are stored in half precision: 14 MB for `hemax-s`. The arguments are those of the card.

    Parameters
    ----------
    ood_detector
        The out-of-distribution detector that was fitted to these weights.
    """
    import torch
    from safetensors.torch import save as to_bytes

    path = Path(path)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    state = {k: v.to(torch.float16) if v.is_floating_point() else v for k, v in state.items()}
    state |= (
        {name: torch.from_numpy(array) for name, array in ood_detector.arrays().items()}
        if ood_detector
        else {}
    )
    raw = to_bytes(state)
    start = 8 + int.from_bytes(raw[:8], "little")
    card = {
        "arch": model.cfg.arch,
        "mpp": mpp,
        "patch_px": patch_px,
        "n_queries": model.cfg.n_queries,
        "temperature": temperature,
        "min_confidence": min_confidence,
        "trained": trained,
        "metrics": metrics,
    }
    meta = {
        "format": FORMAT,
        "vocabulary": vocabulary.fingerprint(),
        "classes": json.dumps(vocabulary.CLASS_NAMES),
        "attributes": json.dumps({a.name: a.states for a in vocabulary.ATTRIBUTES}),
        "data_sha256": hashlib.sha256(raw[start:]).hexdigest(),
        "card": json.dumps(card),
    }
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(to_bytes(state, metadata=meta))
    os.replace(partial, path)
    return read_card(path)


def _current_name(name: str) -> str:
    """Return the current name of a tensor.

    >>> _current_name("fine_look.conv1.weight"), _current_name("backbone.bn1.bias")
    ('roi_refinement.conv1.weight', 'backbone.bn1.bias')
    """
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


#: The class from which a class that older weights lack starts its training.
_START_FROM = {
    "variant_lymphocyte": "lymphocyte",
    "plasma_cell": "lymphocyte",
    "smudge": "lymphocyte",
}
_NEVER_LOGIT = -1e4


def _map_classes(state: dict[str, Tensor], classes: list[str], to_train: str) -> dict[str, Tensor]:
    """Bring the class head of older weights into this vocabulary's order.

    Parameters
    ----------
    state
        The tensors by name. `class_head` has a row per class of `classes` and one for "no cell".
    classes
        The classes of the weights, in order.
    to_train
        Whether training goes on: a new class then starts as the class that it resembles.
        Otherwise its logit is so low that it is never called.
    """
    if tuple(classes) == vocabulary.CLASS_NAMES or "class_head.weight" not in state:
        return state
    rows = [
        classes.index(name if name in classes else _START_FROM.get(name, classes[0]))
        for name in vocabulary.CLASS_NAMES
    ]
    weight, bias = (
        state[f"class_head.{part}"][[*rows, len(classes)]] for part in ("weight", "bias")
    )
    for k, name in enumerate(vocabulary.CLASS_NAMES):
        if name not in classes:
            weight[k] *= bool(to_train)
            bias[k] = bias[k] - 1 if to_train else _NEVER_LOGIT
    return state | {"class_head.weight": weight, "class_head.bias": bias}


def load(path: str | Path | None = None, arch_to_train: str = "") -> tuple[HemaX, WeightsCard]:
    """Load a network in eval mode (float32, on the CPU) with its card.

    Parameters
    ----------
    path
        Checkpoint; None for the shipped weights.
    arch_to_train
        Architecture to train further. Tensors that match it by name and shape are loaded; the
        others keep their random start.

    Raises
    ------
    WeightsError
        As `read_card`, or the tensors do not fit.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from .hemax import ARCHITECTURES, build
    from .out_of_distribution import TENSOR_PREFIX

    card = read_card(path)
    if card.arch not in ARCHITECTURES:
        raise WeightsError(
            f"{card.path}: architecture {card.arch!r}; this version has {', '.join(ARCHITECTURES)}"
        )
    model = build(arch_to_train or card.arch)
    try:
        stored = {_current_name(k): v for k, v in load_file(card.path).items()}
        state = {
            k: v.float() if v.is_floating_point() else v
            for k, v in stored.items()
            if not k.startswith(TENSOR_PREFIX)
        }
        state = _map_classes(
            state, json.loads(_header(Path(card.path))[0]["classes"]), arch_to_train
        )
        if arch_to_train:
            own = model.state_dict()
            state = own | {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{card.path}: its tensors do not fit this version's {card.arch} ({' '.join(str(error).split())[:200]}); "
            "`hemax-batch train --from-weights` goes on from what fits"
        ) from error
    channels_last: Any = {"memory_format": torch.channels_last}
    return model.to(**channels_last).eval(), card


def load_ood_detector(path: str | Path | None = None) -> OodDetector | None:
    """Load the out-of-distribution detector of a checkpoint; None if it has none.

    Raises
    ------
    WeightsError
        As `read_card`.
    """
    from safetensors import safe_open

    from .out_of_distribution import TENSOR_PREFIX, OodDetector

    with safe_open(read_card(path).path, "np") as arrays:
        return OodDetector.from_arrays(
            {
                _current_name(name): arrays.get_tensor(name)
                for name in arrays.keys()
                if _current_name(name).startswith(TENSOR_PREFIX)
            }
        )


def average_weights(paths: list[Path], out: Path) -> WeightsCard:
    """Average the weights of several trainings (Wortsman et al. 2022).

    The result has the last one's card without metrics.

    Raises
    ------
    WeightsError
        The weights differ in architecture, scale or patch size.
    """
    loaded = [load(path) for path in paths]
    cards = [card for _, card in loaded]
    if len({card.arch for card in cards}) != 1:
        raise WeightsError(
            f"architectures {', '.join(sorted({c.arch for c in cards}))}: only weights of one architecture can be averaged"
        )
    if len({(card.mpp, card.patch_px) for card in cards}) != 1:
        scales = "; ".join(f"{c.path}: {c.mpp:g} µm/px, patches of {c.patch_px} px" for c in cards)
        raise WeightsError(
            f"of different scale ({scales}): only weights of one scale and patch size can be averaged"
        )
    states = [model.state_dict() for model, _ in loaded]
    mean = {
        k: sum(s[k] for s in states) / len(states) if v.is_floating_point() else v
        for k, v in states[-1].items()
    }
    model, card = loaded[-1]
    model.load_state_dict(mean)
    trained = {
        **card.trained,
        "averaged": [{"file": Path(c.path).name, "sha256": c.sha256} for c in cards],
    }
    return save(
        model,
        out,
        mpp=card.mpp,
        patch_px=card.patch_px,
        temperature=1.0,
        min_confidence=0.5,
        trained=trained,
        metrics={},
    )
