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

from runrecord.cli.pages import free_port
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
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "only for this test")
    auth = ("--app-name", "basic-auth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own imports
        from mlflow.server.auth.client import AuthServiceClient
    port = free_port(5400)
    with (
        postgresql() as database,
        mlflow_server(tmp_path, port, database, *auth) as address,
    ):
        right = SLOW | {
            "MLFLOW_TRACKING_URI": address,
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }
        for script in ("train_vae", "evaluate"):
            assert "warning" not in workspace.run(
                "python", f"stages/{script}.py", environment=right
            )
        wrong = right | {"MLFLOW_TRACKING_PASSWORD": WRONG}
        output = workspace.run("python", "stages/train_ae.py", environment=wrong)
        output += workspace.run("runrecord", "sync", status=2, environment=wrong)
        assert output.count("warning: MLflow unavailable: ") == 1
        assert (
            "error: MLflow's tracking store cannot be used: it does not know user 'admin' "
            in output
        )

        in_address = address.replace("http://", "http://admin:hunter22@")
        by_address = {"MLFLOW_TRACKING_URI": in_address}
        output += workspace.run("runrecord", "doctor", status=1, environment=by_address)
        for place in (".runrecord", "records", "tensorboard"):
            for file in (workspace.path / place).rglob("*"):
                if file.is_file():
                    content = file.read_bytes()
                    assert not any(s.encode() in content for s in (WRONG, PASSWORD, "hunter22"))
        assert not any(secret in output for secret in (WRONG, PASSWORD, "hunter22"))

        output = workspace.run("runrecord", "sync", environment=right)
        assert "MLflow: 3 created, 0 completed, 2 already there, 0 failed" in output
        for folder in run_dirs(workspace.path):
            if not folder.name.startswith("evaluate"):
                assert_shown_in(MlflowClient(address), folder)
        _, evaluation, ae, _, vae = sorted(runs_at(address), key=lambda run: run.info.run_name)
        assert evaluation.data.tags["ae.run_id"] == ae.info.run_id
        assert (
            vae.data.metrics["Eval/Unnormalised Likelihood/ELBO"]
            == evaluation.data.metrics["vae/Unnormalised Likelihood/ELBO"]
        )
        assert list((tmp_path / "artifacts").rglob("vae.safetensors"))

        AuthServiceClient(address).create_user("bob", WRONG)
        bob = wrong | {"MLFLOW_TRACKING_USERNAME": "bob"}
        lacks = f"user 'bob' lacks rights on the experiment '{EXPERIMENT}' there (403); have "
        output = workspace.run("python", "stages/train_gan.py", environment=bob)
        assert output.count(f"warning: MLflow unavailable: {lacks}") == 1
        output = workspace.run("runrecord", "sync", status=2, environment=bob)
        assert f"error: MLflow's tracking store cannot be used: {lacks}" in output
        own = bob | {"MLFLOW_EXPERIMENT_NAME": "bob's own"}
        assert "0 completed, 0 already there, 0 failed" in workspace.run(
            "runrecord", "sync", environment=own
        )
    assert not (workspace.path / "mlflow.db").exists()


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
