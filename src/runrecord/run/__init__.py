"""Runs as a script sees them: `start_run` begins one, `Run` is what it logs to.

In: what a script logs. Out: events, in the run's record and, by way of trackers, for people to
see. Scripts, stages and `cli` call it; `verify` and `sweep` use its processes.
"""
