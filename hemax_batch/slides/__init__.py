"""Slides: find, open and read them, plan regions, screen for candidates, measure zones and quality.

This package never imports PyTorch. `formats` contains the file formats.
"""
