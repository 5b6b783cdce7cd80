"""Sweeps: Optuna searches params, Ray places the trials, each is a DVC experiment and a record.

- `space`: which values a study tries.
- `study`: a study's definition and its trials; what Optuna makes of them.
- `study_record`: the study as a run of its own, and as its trials' records tell of it.
- `placing`: Ray.
- `driver`: one study from its start to its end.
- `worker`: one trial, wherever Ray places it; `workplace`: its clone, and DVC there.
"""
