"""Where the stages keep what they make of each model."""

from pathlib import Path

EVALUATION_FILE = Path("metrics/evaluation.json")
PICTURES_DIR = Path("metrics/pictures")


def model_path(model: str) -> Path:
    """The weights and the config."""
    return Path("models") / f"{model}.safetensors"


def metrics_path(model: str) -> Path:
    """The last epoch's losses."""
    return Path("metrics") / f"{model}.json"


def history_path(model: str) -> Path:
    """Every epoch's losses."""
    return Path("metrics") / f"{model}_history.csv"
