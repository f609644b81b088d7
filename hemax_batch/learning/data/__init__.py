"""Labelled images: readers of each layout, sources, sampling and augmentation.

Every reader makes `Example` records; an unknown label stays unknown.
"""
