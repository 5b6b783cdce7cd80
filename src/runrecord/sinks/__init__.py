"""Where events are shown: MLflow and TensorBoard."""
