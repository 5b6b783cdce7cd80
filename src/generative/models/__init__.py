"""The models: config, network and loss together, a file a model."""
