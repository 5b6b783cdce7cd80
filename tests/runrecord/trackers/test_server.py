"""Tracking over HTTP: a server on PostgreSQL with users, and servers that go away."""

import os
import warnings
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_views import assert_shown_in, points_in, runs_in
from servers import mlflow_server, postgresql, viewing
from workspaces import EXPERIMENT, TOY_TRAIN, Workspace, read_until, wait_until

from runrecord.cli.viewers import free_port
from runrecord.store.runs import run_dirs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # servers and trainings, several in turn

PASSWORD = "correct horse battery"
SLOW = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
"""For a server that hashes the password at each request, beside other tests."""
WRONG = "wrong-staple-7"


def runs_at(address: str, name: str = EXPERIMENT) -> list[Run]:
    """All runs that a server has, the newest first."""
    return runs_in(MlflowClient(address), name)


@pytest.mark.needs("postgresql")
def test_a_server_on_postgresql_with_users(
    toy: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who may do all, one who may not, and a password that is wrong and stays untold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own imports
        from mlflow.server.auth.client import AuthServiceClient

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "only for this test")
    toy.set_params(train__epochs=2)  # such a server takes long for each file
    auth = ("--app-name", "basic-auth")
    with (
        postgresql() as database,
        mlflow_server(tmp_path, free_port(5400), database, *auth) as address,
    ):
        admin = SLOW | {
            "MLFLOW_TRACKING_URI": address,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }
        for script in ("train", "evaluate"):
            assert "warning" not in toy.run("python", f"{script}.py", environment=admin)
        evaluation, training = runs_at(address)
        assert evaluation.data.tags["model.run_id"] == training.info.run_id
        assert training.data.metrics["Eval/Size"] == evaluation.data.metrics["model/Size"]
        assert list((tmp_path / "artifacts").rglob("model.bin"))

        AuthServiceClient(address).create_user("bob", "staple of bob's")
        bob = admin | {
            "MLFLOW_TRACKING_USERNAME": "bob",
            "MLFLOW_TRACKING_PASSWORD": "staple of bob's",
        }
        lacks = f"user 'bob' lacks rights on the experiment '{EXPERIMENT}' there (403); have "
        refused = f"MLflow's tracking store cannot be used: {lacks}"
        output = toy.run(*TOY_TRAIN, environment=bob)
        assert output.count(f"warning: MLflow unavailable: {lacks}") == 1
        output = toy.run("runrecord", "doctor", status=1, environment=bob)
        assert f"✗ tracking store: {refused}" in output
        (number,) = {run.info.experiment_id for run in (evaluation, training)}
        AuthServiceClient(address).grant_user_permission("bob", "experiment", number, "DENY")
        assert f"error: {refused}" in toy.run("runrecord", "sync", status=2, environment=bob)

        wrong = admin | {"MLFLOW_TRACKING_PASSWORD": WRONG}
        output = toy.run("runrecord", "sync", status=2, environment=wrong)
        unknown = "error: MLflow's tracking store cannot be used: it does not know user 'admin' "
        assert unknown in output
        by_address = {"MLFLOW_TRACKING_URI": address.replace("//", "//admin:hunter22@")}
        output += toy.run("runrecord", "doctor", status=1, environment=by_address)
        secrets = (WRONG, PASSWORD, "hunter22")
        assert not any(secret in output for secret in secrets)
        for place in (".runrecord", "records", "tensorboard"):
            for file in (toy.path / place).rglob("*"):
                content = file.read_bytes() if file.is_file() else b""
                assert not any(secret.encode() in content for secret in secrets)

        own = bob | {"MLFLOW_EXPERIMENT_NAME": "bob's own"}
        assert "3 created" in toy.run("runrecord", "sync", environment=own)
        output = toy.run("runrecord", "sync", environment=admin)
        assert "MLflow: 1 created, 0 completed, 2 already there, 0 failed" in output
        for folder in run_dirs(toy.path):
            if not folder.name.startswith("evaluate"):
                assert_shown_in(MlflowClient(address), folder)
    assert not (toy.path / "mlflow.db").exists()


def test_a_server_that_goes_away_in_mid_training(toy: Workspace, tmp_path: Path) -> None:
    """Back before the end, or, as far as the run can know, never: nothing is lost or doubled."""
    outs = ("model.bin", "metrics.json")
    undisturbed = [toy.read(name) for name in outs]
    port = free_port(5450)
    file = tmp_path / "server.db"
    database = f"sqlite:///{file}"
    environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}

    with mlflow_server(tmp_path, port, database):
        first = toy.start(*TOY_TRAIN, PAUSE_AFTER="3,6", **environment)
        wait_until(lambda: points_in(file) == 3)
    with first:
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write("go on to epoch 6\n")
        first.stdin.flush()
        read_until(first.stdout, "warning: MLflow unavailable")
        with mlflow_server(tmp_path, port, database) as address:
            first.stdin.close()
            output = first.stdout.read()
            assert first.wait() == 0, output
            assert "MLflow is back, and shows all that it missed." in output
            assert "warning" not in output
            assert_shown_in(MlflowClient(address), run_dirs(toy.path)[-1])
            second = toy.start(*TOY_TRAIN, PAUSE_AFTER="3", **environment)
            wait_until(lambda: points_in(file) == 8 + 3)
    output, _ = second.communicate()
    assert second.returncode == 0
    assert output.count("warning: MLflow unavailable") == 1
    assert [toy.read(name) for name in outs] == undisturbed
    with mlflow_server(tmp_path, port, database) as address:
        assert "1 completed" in toy.run("runrecord", "sync", environment=environment)
        for folder in run_dirs(toy.path):
            assert_shown_in(MlflowClient(address), folder)
    assert os.listdir(toy.path / "records" / "train")


@pytest.mark.needs("postgresql")
def test_a_database_without_a_server_and_dvcs_temporary_copy(toy: Workspace) -> None:
    with postgresql() as database:
        environment = {"MLFLOW_TRACKING_URI": database}
        copied = ("dvc", "exp", "run", "--temp", "-S", "train.lr=0.25", "train")
        toy.run(*copied, environment=environment)
        (run,) = runs_at(database)
        folder = toy.path / "mlruns" / run.info.run_id / "artifacts"
        assert run.info.artifact_uri == folder.as_uri()
        assert len(list((folder / "images").glob("*.png"))) == 8
        toy.run("runrecord", "sync", environment=environment)
        assert_shown_in(MlflowClient(database), run_dirs(toy.path)[-1])
        with viewing(toy, "mlflow", MLFLOW_TRACKING_URI=database) as address:
            assert run.info.run_id in [one.info.run_id for one in runs_at(address)]
        engine = sqlalchemy.create_engine(database)
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'feed'"))
        engine.dispose()
        for command in ("sync", "mlflow"):
            output = toy.run("runrecord", command, status=2, environment=environment)
            assert "is of another MLflow than this one" in output
            assert len(output.splitlines()) == 1
    output = toy.run("runrecord", "sync", status=2, environment=environment)
    assert len(output.splitlines()) == 1, "it is gone"
