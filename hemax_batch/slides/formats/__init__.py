"""File formats: one module per way to read a file, and shared code for pixels and metadata.

A new slide format belongs here. `backends` chooses the backend by the file's content.
"""
