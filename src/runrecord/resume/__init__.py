"""Checkpoints, each found by everything that a run's numbers depend on.

In: a run's identity and its state after an epoch. Out: the state to resume from, or why there is
none. `run` saves and loads; `sweep` and the commands only look.
"""
