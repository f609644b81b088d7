"""Labelled images: readers of each layout, sources, sampling, augmentation.

Everything becomes an Example; an unknown label stays unknown.
"""
