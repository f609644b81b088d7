"""The writers, one for each file of a slide's results: masks, tables, GeoJSON, JSON, pictures.

A writer takes records and writes one file; the caller renames it into place.
"""
