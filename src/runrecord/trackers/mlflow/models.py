"""The models of runs: beside runs in MLflow, or among a run's files on a server of MLflow 2."""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from runrecord.project import Project
from runrecord.record.events import Contents, ModelSaved
from runrecord.trackers.base import write_content
from runrecord.trackers.mlflow.artifacts import artifacts_of
from runrecord.trackers.mlflow.links import MODEL_STEP
from runrecord.trackers.mlflow.store import server_version
from runrecord.trackers.names import model_for

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import Model

_LOST = "it took the model, and does not have it"
_FIRST = 3  # the major version of servers that keep models beside runs


class Models:
    """The models of the runs of one experiment."""

    def __init__(self, client: "MlflowClient", experiment: str, project: Project) -> None:
        self._client, self._experiment, self._project = client, experiment, project
        self._are_kept = True
        """Does the server keep models beside runs, as far as is known?"""

    def register(
        self, run: "Run", event: ModelSaved, params: Mapping[str, str], again: bool
    ) -> "LoggedModel | None":
        """The model that a run made, whole or not; None where the server keeps none.

        Done `again`, it is the one that is there.
        """
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        if not self._are_kept:
            return None
        run_id, name = run.info.run_id, model_for(event.name)
        try:
            model = self._of_that_name(run_id, name) if again else None
            linked = model is not None and self._is_linked(run_id, model)
            model = model or self._client.create_logged_model(
                self._experiment,
                name=name,
                source_run_id=run_id,
                tags={"model.sha256": event.file.sha256},
                params=dict(params),
                model_type=self._project.flavor.kind if self._project.flavor else None,
            )
        except MlflowException as error:
            if error.error_code != "ENDPOINT_NOT_FOUND":
                raise
            version = server_version(self._client.tracking_uri)
            if version and int(version.partition(".")[0]) >= _FIRST:
                raise
            _say_once(
                f"MLflow's server is {version or 'an older one'}, which keeps no models beside "
                "runs: here they are files of their runs, and no evaluation is linked to one; "
                f"from {_FIRST}.0 on it does."
            )
            self._are_kept = False
            return None
        if not linked:
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, event.step)])
        return model

    def tags(self, run: "Run", event: ModelSaved, model: "LoggedModel | None") -> dict[str, str]:
        """The tags of a run that made a model."""
        tags = {"model.sha256": event.file.sha256}
        if model is not None:
            return tags | {"model.id": model.model_id}
        address = f"runs:/{run.info.run_id}/{_path_of(event)}"
        return tags | {"model.id": address, MODEL_STEP: str(event.step)}

    def put(
        self, run: "Run", event: ModelSaved, contents: Contents, model: "LoggedModel | None"
    ) -> None:
        """Put a model's files there as its project packs it; without that, its file."""
        from mlflow.entities import LoggedModelStatus
        from mlflow.models import Model

        run_id = run.info.run_id
        if model is None:
            repository = artifacts_of(self._client, run)
            of_run = Model(run_id=run_id, artifact_path=_path_of(event))
            with self._packed(event, contents, of_run) as packed:
                repository.log_artifacts(packed, _path_of(event))
            if not repository.list_artifacts(_path_of(event)):
                raise OSError(_LOST)
            return
        ready = model.status == LoggedModelStatus.READY
        if not (ready and self._client.list_logged_model_artifacts(model.model_id)):
            of_run = Model(run_id=run_id, model_id=model.model_id)
            with self._packed(event, contents, of_run) as packed:
                self._client.log_model_artifacts(model.model_id, packed)
            if not self._client.list_logged_model_artifacts(model.model_id):
                raise OSError(_LOST)
        if not ready:
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    @contextmanager
    def _packed(self, event: ModelSaved, contents: Contents, of_run: "Model") -> Iterator[str]:
        """A folder with the model, which goes when it is done with."""
        with tempfile.TemporaryDirectory() as folder:
            weights, packed = Path(folder) / "file" / event.filename, Path(folder) / "model"
            write_content(contents[event.file.name], weights)
            if self._project.flavor:
                self._project.flavor.save(weights, packed, of_run)
            else:
                weights.parent.rename(packed)
            yield str(packed)

    def _is_linked(self, run_id: str, model: "LoggedModel") -> bool:
        outputs = self._client.get_run(run_id).outputs
        return bool(outputs) and model.model_id in {one.model_id for one in outputs.model_outputs}

    def _of_that_name(self, run_id: str, name: str) -> "LoggedModel | None":
        """The model of that name that a run has already."""
        found = self._client.search_logged_models(
            [self._experiment], f"source_run_id = '{run_id}' AND name = '{name}'"
        )
        return found[0] if found else None


def _path_of(event: ModelSaved) -> str:
    """Where a model's files are among those of its run, on a server that keeps no models."""
    return f"models/{model_for(event.name)}"


@cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)
