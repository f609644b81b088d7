"""Run tasks: dask cluster, executors, work queue, retries, processes and timeouts.

Also progress, resources and stopping. This package reads no pixels.
"""
