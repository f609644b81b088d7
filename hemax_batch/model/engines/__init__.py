"""What the network runs in: PyTorch or OpenVINO, behind one call from pixels to NetworkOutput.

A new engine goes here; `selection` chooses by name.
"""
