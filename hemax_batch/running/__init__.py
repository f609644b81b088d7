"""A run in progress: the queue of regions, the processes that do them, and what becomes of a slide when they are done."""
