"""One region as a task: candidates, patches, predictions, cells; and the audit of the screen.

Runs in whichever process has time; knows nothing of the queue that sends it.
"""
