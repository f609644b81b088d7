"""Engines that run the network: PyTorch and OpenVINO, from pixels to `NetworkOutput`.

A new engine goes here; `selection` chooses by name.
"""
