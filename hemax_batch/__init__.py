"""hemax-batch: explainable white-cell differentials from blood-smear scans, in batches."""

__version__ = "0.1.0"
