"""Layers with `torch.nn`'s parameters and results, faster on some machines."""
