"""MLflow and TensorBoard: records played into what people look at; nothing else knows a tracker.

In: events of a record. Out: runs in MLflow, event files of TensorBoard, and what MLflow shows of a
record, compared with it. Only `cli` calls it; a run starts the follower as a process.
"""
