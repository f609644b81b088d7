"""Cells after inference: merge, measure, classify, explain, select and count.

Pure functions of arrays and records: no files, no slides, no network.
"""
