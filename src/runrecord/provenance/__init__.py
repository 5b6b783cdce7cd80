"""What a run was made from: commit, uncommitted change, inputs, machine, packages, variables.

In: a checkout and a stage. Out: values for the run's first event, and code checked out again for
`verify` and `sweep`. The only room that runs Git.
"""
