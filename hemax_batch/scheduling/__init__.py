"""Where and when tasks run: dask cluster, executors, work queue, retries, processes and timeouts.

Also progress, resources and stopping. Nothing here looks at pixels.
"""
