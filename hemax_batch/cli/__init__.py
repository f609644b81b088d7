"""The command line, one module for each command group; nothing heavy is imported before a command runs.

`app` holds the group that every command joins.
"""

from .app import main

__all__ = ["main"]
