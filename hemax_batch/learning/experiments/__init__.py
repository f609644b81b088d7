"""Studies of several trainings: comparison with other models, transfer to another laboratory.

Built on training and evaluation.
"""
