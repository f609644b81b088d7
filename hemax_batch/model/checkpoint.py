"""Weights as safetensors, with everything needed to use them and to doubt them in the header.

The header's `data_sha256` is the SHA-256 of the tensor bytes, so any damage after writing is found at load; the
shipped weights' whole-file hash is also kept beside them (`weights/SHA256SUMS`). Reading a card needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .. import vocabulary
from ..bounded_files import parse_json
from ..errors import WeightsError

FORMAT = "hemax-batch weights 1"
SHIPPED = Path(__file__).parent / "weights" / "hemax-s.safetensors"
CHECKSUMS = SHIPPED.parent / "SHA256SUMS"
_MAX_HEADER = 1 << 20
#: How tensors' names begin that earlier versions wrote, and how they begin now.
_RENAMED = {
    "fine_look.": "roi_refinement.",
    "gist.": "roi_context.",
    "tint.": "cytoplasm_colour_head.",
    "known.": "ood.",
}


@dataclass(frozen=True)
class WeightsCard:
    """What a checkpoint says of itself.

    mpp, patch_px    the working scale (µm/px) and the side of a patch
    temperature      divides the class logits (fitted on held-out data; 1 = none)
    min_confidence   below it a cell is `unidentified`
    trained          how: command, seed, steps, minutes, data and licences
    metrics          what `evaluate` measured
    """

    path: str
    sha256: str
    arch: str
    mpp: float
    patch_px: int
    n_queries: int
    temperature: float
    min_confidence: float
    trained: dict
    metrics: dict


def _hash(path: Path, start: int = 0) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        f.seek(start)
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _header(path: Path) -> tuple[dict, int]:
    """The safetensors header's metadata and where the tensor bytes start."""
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
    """The card of a checkpoint (None = the shipped weights), after checking its hashes and vocabulary.

    WeightsError when the file is missing, damaged, of another format or of another vocabulary.
    """
    path = Path(path) if path else SHIPPED
    try:
        stat = os.stat(path)
    except OSError as error:
        raise WeightsError(
            f"{path}: no such weights ({error.strerror}); give a file with --weights"
        ) from error
    return _read_card(path.resolve(), stat.st_mtime_ns, stat.st_size)


def labels_were_shuffled(trained: dict) -> bool:
    """Whether any of the trainings was a control; `trained` as in a card."""
    before = trained.get("before")
    return bool(trained.get("labels_shuffled") or (before and labels_were_shuffled(before)))


def reject_shuffled_labels(card: WeightsCard) -> WeightsCard:
    """The card; WeightsError where the weights are a control."""
    if labels_were_shuffled(card.trained):
        raise WeightsError(
            f"{card.path}: its card says that labels were shuffled in its training: a control for `evaluate` and "
            "`faithfulness`, whose classes mean nothing; use other weights"
        )
    return card


@lru_cache(maxsize=8)
def _read_card(path: Path, _mtime: int, _size: int) -> WeightsCard:
    meta, start = _header(path)
    if meta.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: format {meta.get('format')!r}, expected {FORMAT!r}; these are not weights of this version"
        )
    if meta.get("vocabulary") != vocabulary.fingerprint():
        raise WeightsError(
            f"{path}: its vocabulary is {str(meta.get('vocabulary'))[:12]}…, this program's "
            f"{vocabulary.fingerprint()[:12]}…; "
            "use the weights that came with this version, or train again"
        )
    found = _hash(path, start)
    if found != meta.get("data_sha256"):
        raise WeightsError(
            f"{path}: damaged: tensor data hash {found[:12]}…, header says {str(meta.get('data_sha256'))[:12]}…"
        )
    sha256 = _hash(path)
    _check_checksums(path, sha256)
    try:
        card = parse_json(meta["card"], finite=False)
        return WeightsCard(path=str(path), sha256=sha256, **card)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its card is incomplete ({error})") from error


def _check_checksums(path: Path, sha256: str) -> None:
    if path.parent != CHECKSUMS.parent.resolve() or not CHECKSUMS.exists():
        return
    for line in CHECKSUMS.read_text().splitlines():
        expected, name = line.split()
        if name == path.name and expected != sha256:
            raise WeightsError(
                f"{path}: SHA-256 {sha256[:12]}…, {CHECKSUMS.name} says {expected[:12]}…; install the package again"
            )


def save(
    model,
    path: str | Path,
    *,
    mpp: float,
    patch_px: int,
    temperature: float,
    min_confidence: float,
    trained: dict,
    metrics: dict,
    ood_detector=None,
) -> WeightsCard:
    """Write a network's weights (half precision, so 14 MB for `hemax-s`) and card; aside first, then renamed.

    ood_detector  the `out_of_distribution.OodDetector`, where it was fitted to these very weights
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
    """A tensor's name as this version has it.

    >>> _current_name("fine_look.conv1.weight"), _current_name("backbone.bn1.bias")
    ('roi_refinement.conv1.weight', 'backbone.bn1.bias')
    """
    for old, new in _RENAMED.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def load(path: str | Path | None = None, arch_to_train: str = ""):
    """The network in eval mode (float32, on the CPU) and its card. WeightsError as `read_card`.

    arch_to_train: an architecture to be trained further; what of the file fits it by name and shape is taken, the rest begins
    as built.
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
        if arch_to_train:
            own = model.state_dict()
            state = own | {k: v for k, v in state.items() if k in own and own[k].shape == v.shape}
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{card.path}: its tensors do not fit this version's {card.arch} ({' '.join(str(error).split())[:200]}); "
            "`hemax-batch train --from-weights` goes on from what fits"
        ) from error
    return model.to(memory_format=torch.channels_last).eval(), card


def load_ood_detector(path: str | Path | None = None):
    """The `OodDetector` of a checkpoint; None where it has none. WeightsError as `read_card`."""
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
    """The mean of several trainings' weights (Wortsman et al. 2022), with the last one's card and no figures yet.

    WeightsError where they are not of one architecture, scale and patch.
    """
    loaded = [load(path) for path in paths]
    cards = [card for _, card in loaded]
    if len({card.arch for card in cards}) != 1:
        raise WeightsError(
            f"architectures {', '.join(sorted({c.arch for c in cards}))}: only alike ones can be averaged"
        )
    if len({(card.mpp, card.patch_px) for card in cards}) != 1:
        scales = "; ".join(f"{c.path}: {c.mpp:g} µm/px, patches of {c.patch_px} px" for c in cards)
        raise WeightsError(
            f"of different scale ({scales}): only weights of the same one can be averaged"
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
