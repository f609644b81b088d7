"""Measurements of the tool on this machine, side by side in one run (`bin/bench`).

`__main__` is the command line, `benchmark` measures one slide, the others measure its parts.
"""
