"""Pictures: arrays in, pixels out."""
