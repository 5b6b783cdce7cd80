"""What a run was made from: stage, inputs, machine, packages, variables.

In: a checkout and a stage. Out: values for the run's first event; at its end, which inputs changed
meanwhile and what its outs hash to. `run`, `verify` and `sweep` call it.
"""
