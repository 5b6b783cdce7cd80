"""What runrecord is told of this project; every field has a default."""

from runrecord import Project

PROJECT = Project(
    experiment="sklearn-digits",
    packages=("dvc", "mlflow", "numpy", "scikit-learn", "scipy"),
    better={"accuracy": "higher"},
    curves=("train/accuracy", "test/accuracy"),
)
