"""The stages: data and models joined with `runrecord`."""
