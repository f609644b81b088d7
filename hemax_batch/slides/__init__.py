"""Slides: find, open and read them, plan regions, screen for candidates, measure zones and quality.

Never imports PyTorch. File formats lie in `formats`.
"""
