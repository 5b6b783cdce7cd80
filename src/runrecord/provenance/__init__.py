"""What a run is made from: code, pipeline, environment."""
