"""Measurements of the tool on the machine at hand, side by side in one run (`bin/bench`). No part of a run.

__main__.py       the command line, and what is measured in which order
watched.py        a command watched: wall time, memory of its process tree, bytes read, GPU utilisation
work.py           the pieces by themselves, each in processes of its own: reading, the network, the plain loop
peer.py           a peer's engine with the same network on the same slide, in an environment of its own
merging.py        merging and writing made-up cells: no slide, no network
recall.py         what the screen finds of what the network finds everywhere
gpu.py            what a GPU makes of the network, by itself: `python -m hemax_batch.bench.gpu OUT.json`
gpu_busy.py       how busy a GPU is meanwhile
gpu_agreement.py  whether it answers as the CPU does
table.py          the figures as a table, and growth fitted
"""
