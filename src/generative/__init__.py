"""Autoencoders on MNIST as a reproducible, tracked pipeline."""
