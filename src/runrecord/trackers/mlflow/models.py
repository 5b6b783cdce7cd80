"""The models of runs, which MLflow keeps beside them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runrecord.project import Project
from runrecord.record.events import Contents, ModelSaved
from runrecord.trackers.base import write_content
from runrecord.trackers.names import model_for

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run


class Models:
    """The models of the runs of one experiment."""

    def __init__(self, client: "MlflowClient", experiment: str, project: Project) -> None:
        self._client, self._experiment, self._project = client, experiment, project

    def register(
        self, run: "Run", event: ModelSaved, params: Mapping[str, str], again: bool
    ) -> "LoggedModel":
        """The model that a run made, whole or not; done `again`, it is the one that is there."""
        from mlflow.entities import LoggedModelOutput

        run_id, name = run.info.run_id, model_for(event.name)
        there = []
        if again:
            wanted = f"source_run_id = '{run_id}' AND name = '{name}'"
            there = self._client.search_logged_models([self._experiment], wanted)
        model = (
            there[0]
            if there
            else self._client.create_logged_model(
                self._experiment,
                name=name,
                source_run_id=run_id,
                tags={"model.sha256": event.file.sha256},
                params=dict(params),
                model_type=self._project.flavor.kind if self._project.flavor else None,
            )
        )
        if not (there and self._is_linked(run_id, model)):
            self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, event.step)])
        return model

    def put(self, run_id: str, event: ModelSaved, contents: Contents, model: "LoggedModel") -> None:
        """Put a model's files there as its project packs it; without that, its file.

        Raises:
            OSError: a server took them, and does not have them.
        """
        from mlflow.entities import LoggedModelStatus
        from mlflow.models import Model

        ready = model.status == LoggedModelStatus.READY
        if not (ready and self._client.list_logged_model_artifacts(model.model_id)):
            with tempfile.TemporaryDirectory() as folder:
                weights, packed = Path(folder) / "file" / event.filename, Path(folder) / "model"
                write_content(contents[event.file.name], weights)
                if self._project.flavor:
                    of_run = Model(run_id=run_id, model_id=model.model_id)
                    self._project.flavor.save(weights, packed, of_run)
                else:
                    weights.parent.rename(packed)
                self._client.log_model_artifacts(model.model_id, str(packed))
            if not self._client.list_logged_model_artifacts(model.model_id):
                raise OSError("it took the model, and does not have it")
        if not ready:
            self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _is_linked(self, run_id: str, model: "LoggedModel") -> bool:
        outputs = self._client.get_run(run_id).outputs
        return bool(outputs) and model.model_id in {one.model_id for one in outputs.model_outputs}
