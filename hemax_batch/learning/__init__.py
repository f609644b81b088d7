"""Training and measuring networks on labelled images.

data < evaluation < training < experiments: each imports only those before it.
"""
