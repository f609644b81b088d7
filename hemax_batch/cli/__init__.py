"""The command line, one module for each command group; nothing heavy is imported before a command runs.

`app` holds the group that every command joins.
"""

from ..import_path import secure_own_imports

secure_own_imports()  # before anything else is imported

from .app import main  # noqa: E402

__all__ = ["main"]
