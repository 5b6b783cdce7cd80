"""One page about runs, side by side."""
