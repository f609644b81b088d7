"""Evaluation of checkpoints: metrics, calibration, faithfulness of explanations, and their pages.

`evaluate` measures labelled cells; `calibration` fits temperature, threshold and detector.
"""
