"""`python -m hemax_batch` is `hemax-batch`."""

from .cli.app import main

if __name__ == "__main__":  # worker processes import this module again under another name
    main()
