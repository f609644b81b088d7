"""What a laboratory does with the tool: verify it against manual counts, and monitor it from night
to night.

Code that one of these commands needs belongs here. Code that a run needs does not.
"""
