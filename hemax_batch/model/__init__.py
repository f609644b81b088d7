"""The HemaX network and its use on patches: layers, losses, checkpoints, predictor.

It knows PyTorch and the vocabulary, never a slide. Engines run the network.
"""
