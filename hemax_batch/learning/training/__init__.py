"""Training a network: recipe, stages, early stopping, pseudo-labels, processes, weights.

`trainer` tells a training from top to bottom.
"""
