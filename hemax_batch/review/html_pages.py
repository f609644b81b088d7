"""Tools of both pages: templates, JSON that is safe in HTML, hashes for the page's policy, an atomic file."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from ..errors import OutputError
from ..results.contained_files import create_file

_TEMPLATES = Path(__file__).parent / "templates"


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Return Jinja with escaping on. An undefined variable is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(path: Path, pieces: Iterable[str]) -> Path:
    """Write a page piece by piece, and rename it into place. Invalid Unicode, as in file names, is shown escaped."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with io.TextIOWrapper(
            create_file(partial), encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as page:
            page.writelines(pieces)
            page.flush()
            os.fsync(page.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}; check space and permissions"
        ) from error
    return path


def script_json(value: object) -> Markup:
    r"""Return JSON for a <script> element. Nothing in it can end the element or begin a comment.

    >>> print(script_json("</script>"))
    "\u003c/script\u003e"
    """
    text = json.dumps(
        value, separators=(",", ":"), allow_nan=False
    )  # ASCII: U+2028 and lone surrogates are escaped
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def inline(names: tuple[str, ...], more: str = "") -> tuple[Markup, str]:
    """Join style or script files and `more`. Return them with their hash for the Content-Security-Policy."""
    text = "\n".join((*((_TEMPLATES / name).read_text("utf-8") for name in names), more))
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"
