"""Where MLflow keeps runs: what is there is used, and what is others' stays as it is."""

from pathlib import Path

import pytest

from runrecord.sinks.mlflow_store import connect


@pytest.mark.timeout(200)
def test_an_empty_file_becomes_a_store_and_only_what_was_moved_is_followed(tmp_path: Path) -> None:
    root = tmp_path / "한글 폴더"
    (root / ".dvc").mkdir(parents=True)
    (root / "mlflow.db").touch()
    (root / "pyproject.toml").write_text("[tool.runrecord]\nproject = 'named:PROJECT'\n")
    source = "from runrecord.project import Project\nPROJECT = Project(experiment='mine')\n"
    (root / "named.py").write_text(source)
    client, experiment = connect(root)
    tags = {"mlflow.experimentKind": "custom_model_development"}
    others = {"bucket": "s3://bucket/mlruns", "other": "file:///other/project/mlruns"}
    for name, location in others.items():
        client.create_experiment(name, location, tags)
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "mine", "note.txt")

    root = root.rename(tmp_path / "moved 100%")
    client, experiment = connect(root)
    client, experiment = connect(root)
    found = {found.name: found.artifact_location for found in client.search_experiments()}
    assert found["mine"] == (root / "mlruns").as_uri()
    (file,) = client.list_artifacts(run.info.run_id)
    assert Path(client.download_artifacts(run.info.run_id, file.path)).read_text() == "mine"
    assert {name: found[name] for name in others} == others


@pytest.mark.timeout(200)
def test_an_experiment_that_was_deleted_in_the_ui_comes_back_with_its_runs(tmp_path: Path) -> None:
    client, experiment = connect(tmp_path)
    run = client.create_run(experiment)
    client.delete_experiment(experiment)
    assert client.get_experiment(experiment).lifecycle_stage == "deleted"
    client, again = connect(tmp_path)
    assert again == experiment
    assert client.get_experiment(again).lifecycle_stage == "active"
    assert [one.info.run_id for one in client.search_runs([again])] == [run.info.run_id]
