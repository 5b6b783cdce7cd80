"""Records, replays and proves the runs of DVC pipelines."""
