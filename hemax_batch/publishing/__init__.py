"""Publish a slide's finished regions as its results, and write the record of the run.

This package calls results, outputs and review.
"""
