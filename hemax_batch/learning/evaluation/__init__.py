"""Measuring a checkpoint: metrics, calibration, faithfulness of explanations, pages, model card.

Every figure has an interval.
"""
