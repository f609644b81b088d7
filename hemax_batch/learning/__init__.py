"""Learning: labelled images, training, evaluation, and studies of several trainings.

Imports go downwards: experiments, training, evaluation, data.
"""
