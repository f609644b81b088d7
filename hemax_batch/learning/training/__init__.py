"""Training of the network: recipe, stages, early stopping, pseudo-labels, processes and weights.

`trainer` shows a training from top to bottom.
"""
