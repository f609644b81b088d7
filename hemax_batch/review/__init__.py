"""What people do with results: look at them, correct them, count again.

Reads published results back; a page is a template in `templates`.
"""
