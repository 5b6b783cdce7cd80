"""The MLflow sink: one MLflow run a run, known by its tag `record.id`."""

import json
import re
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from generative.tracking.events import (
    Dataset,
    EpochEnded,
    Event,
    ModelSaved,
    ModelsEvaluated,
    RunEnded,
    RunStarted,
)
from generative.tracking.mlflow_store import connect
from generative.tracking.tracker import Sink

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Run
    from mlflow.models import ModelSignature

PACKAGE = Path(__file__).resolve().parents[1]
LOADER = "generative.serving"


class MlflowSink(Sink):
    """Plays a run's events into the tracking store of the main repository at `root`."""

    def __init__(self, root: Path) -> None:
        self._client, self._experiment = connect(root)
        self._run_id = ""
        self._started: RunStarted | None = None

    def handle(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start(event)
            case EpochEnded():
                self._log_epoch(event)
            case ModelSaved():
                self._log_model(event)
            case ModelsEvaluated():
                self._log_evaluation(event)
            case RunEnded():
                if event.message:
                    self._client.set_tag(self._run_id, "error", event.message[:5000])
                self._client.set_terminated(self._run_id, event.status, event.time)

    def close(self) -> None:
        pass

    def _start(self, event: RunStarted) -> None:
        from mlflow.entities import LoggedModelInput, Param

        self._started = event
        trained = {name: self._trained(digest) for name, digest in event.models.items()}
        tags = {
            "mlflow.source.name": event.stage,
            "mlflow.source.type": "LOCAL",
            "record.id": event.id,
            **event.tags,
            **{f"{name}.sha256": digest for name, digest in event.models.items()},
            **{f"{name}.run_id": runs[0].info.run_id for name, runs in trained.items() if runs},
        }
        run = self._client.create_run(self._experiment, event.time, tags, event.id)
        self._run_id = run.info.run_id
        params = [Param(key, str(value)) for key, value in event.params.items()]
        self._client.log_batch(self._run_id, params=params)
        inputs = [
            LoggedModelInput(runs[0].data.tags["model.id"]) for runs in trained.values() if runs
        ]
        self._client.log_inputs(self._run_id, [_dataset_input(event.dataset)], inputs)

    def _log_epoch(self, event: EpochEnded) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(
            self._run_id,
            [Metric(name, value, event.time, event.epoch) for name, value in event.means.items()],
        )
        for title, pixels in event.images.items():
            key = _image_key(title)
            self._client.log_image(
                self._run_id, pixels, key=key, step=event.epoch, timestamp=event.time
            )

    def _log_model(self, event: ModelSaved) -> None:
        """Log the model as a pyfunc: safetensors and this package's code; nothing is pickled."""
        import mlflow.pyfunc
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models import Model

        assert self._started is not None
        model = self._client.create_logged_model(
            self._experiment,
            name=event.name,
            source_run_id=self._run_id,
            tags={"model.sha256": event.sha256},
            params={key: str(value) for key, value in self._started.params.items()},
            model_type="autoencoder",
        )
        self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, event.epoch)])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            mlflow.pyfunc.save_model(
                path,
                loader_module=LOADER,
                data_path=str(event.path),
                code_paths=[str(PACKAGE)],
                mlflow_model=Model(run_id=self._run_id, model_id=model.model_id),
                signature=_signature(),
                input_example=np.zeros((1, 1, 28, 28), np.float32),
                pip_requirements=_requirements(),
            )
            self._client.log_model_artifacts(model.model_id, str(path))
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self._client.set_tag(self._run_id, "model.id", model.model_id)
        self._client.set_tag(self._run_id, "model.sha256", event.sha256)

    def _log_evaluation(self, event: ModelsEvaluated) -> None:
        """The figures go to this run, and to every training run that made those very models."""
        from mlflow.entities import Metric

        assert self._started is not None
        dataset = self._started.dataset
        self._client.log_batch(
            self._run_id,
            [
                Metric(f"{model}/{name}", value, event.time, 0)
                for model, figures in event.figures.items()
                for name, value in figures.items()
            ],
        )
        for title, pixels in event.images.items():
            self._client.log_image(
                self._run_id, pixels, key=_image_key(title), step=0, timestamp=event.time
            )
        for model, figures in event.figures.items():
            for run in self._trained(self._started.models[model]):
                metrics = _figures_of(run, figures, event.time, dataset)
                self._client.log_batch(run.info.run_id, metrics)
                self._client.set_tag(run.info.run_id, "evaluation.run_id", self._run_id)

    def _trained(self, digest: str) -> "list[Run]":
        """The training runs whose model has that SHA-256, the newest first."""
        found = self._client.search_runs(
            [self._experiment],
            f"tags.`model.sha256` = '{digest}'",
            order_by=["attributes.start_time DESC"],
        )
        return list(found)


def _figures_of(
    run: "Run", figures: Mapping[str, float], time: int, dataset: Dataset
) -> "list[Metric]":
    """An evaluation's figures as metrics of the training run, its model and the data set."""
    from mlflow.entities import Metric

    return [
        Metric(
            f"Evaluation/{name}",
            value,
            time,
            int(run.data.params["epochs"]),
            model_id=run.data.tags["model.id"],
            dataset_name=dataset.name,
            dataset_digest=dataset.digest,
        )
        for name, value in figures.items()
    ]


def _image_key(title: str) -> str:
    """A title less the characters that MLflow refuses in an image's key."""
    return re.sub(r"[^\w\-./ ]", "", title)


def _dataset_input(dataset: Dataset) -> "DatasetInput":
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput

    source = json.dumps({"uri": dataset.source})
    return DatasetInput(MlflowDataset(dataset.name, dataset.digest, "local", source))


def _signature() -> "ModelSignature":
    """Images in, reconstructions out: (B, 1, 28, 28) float32 in [0, 1]."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = Schema([TensorSpec(np.dtype("float32"), (-1, 1, 28, 28))])
    reconstructions = Schema([TensorSpec(np.dtype("float32"), (-1, 1, 28, 28))])
    return ModelSignature(images, reconstructions)


def _requirements() -> list[str]:
    """What loading a model needs, in the versions that wrote it."""
    names = ("torch", "safetensors", "numpy", "pydantic", "pyyaml")
    return [f"{name}=={version(name)}" for name in names]
