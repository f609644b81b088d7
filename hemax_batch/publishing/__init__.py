"""From a slide's finished regions to its published results, and the record of the run.

Stands above results, outputs and review, which it calls.
"""
