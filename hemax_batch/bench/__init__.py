"""Measurements of the tool on the machine at hand, side by side in one run (`bin/bench`). No part of a run.

`__main__` is the command line; `benchmark` says what is measured of one slide; the others are its pieces.
"""
