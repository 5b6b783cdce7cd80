"""Sweeps: Optuna searches params, Ray places the trials, each is a DVC experiment and a record.

In: what to search. Out: experiments, records, the study in `.runrecord/studies/`. `cli` calls it.
"""
