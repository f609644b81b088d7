"""One module for each way to read a file, and what formats share: pixel formats, metadata, tiles.

A new slide format goes here; `backends` chooses by content.
"""
