"""`python -m hemax_batch` is `hemax-batch`."""

from .import_path import secure_own_imports

if __name__ == "__main__":  # worker processes import this module again under another name
    secure_own_imports(started_with_m=True)
    from .cli.app import main

    main()
