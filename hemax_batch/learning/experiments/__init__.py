"""Studies of several trainings: comparison with other models, and transfer to other laboratories.

They build on training and evaluation.
"""
