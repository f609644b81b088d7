"""The results folder: what lies where, its lock, the journal of regions, atomic writes.

What a slide's results were made from is in `slide_record`.
"""
