"""One region as a task: candidates, patches, predictions, cells; and the audit of the screen.

A task runs in any process. This package does not know the queue that sends it.
"""
