"""MLflow: a module for each kind of thing that it keeps; `store` notes what it is known to show."""
