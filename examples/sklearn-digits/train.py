"""Train a linear classifier of handwritten digits, epoch by epoch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import train_test_split

import runrecord


class Training:
    """All that an epoch changes: the classifier, and the state of its random numbers."""

    def __init__(self, alpha: float, seed: int) -> None:
        self.random = np.random.RandomState(seed)
        self.model = SGDClassifier(loss="log_loss", alpha=alpha, random_state=self.random)

    def state_dict(self) -> dict[str, Any]:
        """All of it, as arrays."""
        _, key, position, *_ = self.random.get_state()
        model = {"coef": self.model.coef_, "intercept": self.model.intercept_}
        return {**model, "t": np.array(self.model.t_), "key": key, "position": np.array(position)}

    def load_state_dict(self, arrays: Mapping[str, Any]) -> None:
        """Be as `state_dict` had it."""
        self.model.classes_ = np.arange(10)
        self.model.coef_, self.model.intercept_ = arrays["coef"], arrays["intercept"]
        self.model.t_ = float(arrays["t"])
        self.random.set_state(("MT19937", arrays["key"], int(arrays["position"]), 0, 0.0))


def picture(counts: Any) -> Figure:
    """A confusion matrix: a row a true digit, a column a predicted one."""
    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot(xlabel="predicted", ylabel="true", xticks=range(10), yticks=range(10))
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center")
    return figure


def main() -> None:
    """Train, and log every epoch."""
    with runrecord.start_run() as run:
        images, digits = load_digits(return_X_y=True)
        train, test, train_digits, test_digits = train_test_split(
            images / 16, digits, test_size=0.25, random_state=run.params["seed"]
        )
        training = Training(run.params["model.alpha"], run.params["seed"])
        model = training.model
        for _ in run.epochs(run.params["model.epochs"], state=training):
            model.partial_fit(train, train_digits, classes=np.arange(10))
            accuracy = {
                "train/accuracy": model.score(train, train_digits),
                "test/accuracy": model.score(test, test_digits),
            }
            run.log(accuracy)
        counts = confusion_matrix(test_digits, model.predict(test))
        run.figure("confusion matrix", picture(counts))
        weights = {"coef": model.coef_, "intercept": model.intercept_}
        safetensors.numpy.save_file(weights, "model.safetensors")
        run.model("model.safetensors")
        result = {"accuracy": model.score(test, test_digits)}
        Path("metrics.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
