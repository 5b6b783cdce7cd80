"""The sinks that a run's events play into."""
