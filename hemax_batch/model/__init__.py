"""The HemaX network and how it is applied to patches: layers, losses, checkpoints, predictor.

Knows PyTorch and the vocabulary, never a slide. Engines run the network; weights are data files.
"""
