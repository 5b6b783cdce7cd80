"""MLflow: one module for each kind of thing that it keeps of a run."""
