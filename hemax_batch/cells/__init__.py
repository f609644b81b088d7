"""Cells after inference: merge, measure, classify, explain, select, count.

Pure functions of arrays and records; no files, no slides, no network.
"""
