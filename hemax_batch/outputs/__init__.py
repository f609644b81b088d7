"""One writer per file of a slide's results: masks, tables, GeoJSON, JSON, pictures.

A writer takes records and writes one file. The caller renames it into place.
"""
