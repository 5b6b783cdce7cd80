"""How a person names runs. Imports nothing: every command's help says it."""

WAYS = "a run's name or MLflow id, a record's folder, or REVISION:ae, :vae or :evaluation"
"""What `lookup` finds."""
