"""Training: knows no tracker, no file and no particular model."""
