"""The results folder: its layout, its lock, the journal of regions, atomic writes.

`slide_record` says what a slide's results were made from.
"""
