"""Where MLflow keeps runs: what is there is used, and what is others' stays as it is."""

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
from mlflow import MlflowClient
from workspaces import new_project, wait_until

from runrecord.cli.upkeep import sync
from runrecord.errors import UserError
from runrecord.trackers.mlflow.store import (
    connect,
    database_of,
    is_database,
    keep_look,
    last_look,
    store_failure,
)
from runrecord.trackers.player import Store


def test_an_experiment_that_was_deleted_in_the_ui_comes_back_with_its_runs(
    tmp_path: Path, empty_store: Path
) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    client, experiment = connect(tmp_path)
    run = client.create_run(experiment)
    client.delete_experiment(experiment)
    assert client.get_experiment(experiment).lifecycle_stage == "deleted"
    client, again = connect(tmp_path)
    assert again == experiment
    assert client.get_experiment(again).lifecycle_stage == "active"
    assert [one.info.run_id for one in client.search_runs([again])] == [run.info.run_id]


THEIRS = """
import mlflow, runrecord

with runrecord.start_run("train") as run:
    mlflow.set_experiment("their own")
    with mlflow.start_run():
        for step in range(5):
            mlflow.log_metric("theirs", step, step=step)
    run.log({"ours": 1.0})
"""


@pytest.mark.slow
def test_a_script_that_uses_mlflow_itself_shares_a_database_that_did_not_exist(
    tmp_path: Path,
) -> None:
    files = {
        ".gitignore": "/mlflow.db*\n/mlruns\n/tensorboard\n",
        "dvc.yaml": "stages: {train: {cmd: python train.py, deps: [train.py]}}\n",
        "train.py": THEIRS,
    }
    project = new_project(tmp_path / "repository", files)
    said = project.run("python", "train.py")
    assert "warning" not in said
    client = MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")
    ids = {one.name: one.experiment_id for one in client.search_experiments()}
    for metric, experiment in (("theirs", "their own"), ("ours", "repository")):
        (run,) = client.search_runs([ids[experiment]])
        assert metric in run.data.metrics
        assert run.info.status == "FINISHED"


@pytest.mark.timeout(200)
def test_a_new_database_has_the_tables_that_mlflow_makes_beside_others(
    empty_store: Path, tmp_path: Path
) -> None:
    """Also where somebody makes that database while ours is made."""
    thread = Thread(target=connect, args=[tmp_path])
    thread.start()
    wait_until((tmp_path / ".runrecord" / "new-database" / "mlflow.db").exists)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE theirs (text)")
    thread.join()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert {"theirs", "experiments", "runs"} <= {name for _, name, _ in schema(database)}
    MlflowClient(f"sqlite:///{tmp_path / 'own.db'}").search_experiments()
    with (
        closing(sqlite3.connect(tmp_path / "own.db")) as own,
        closing(sqlite3.connect(empty_store)) as ours,
    ):
        assert schema(ours) == schema(own)
        version = "SELECT version_num FROM alembic_version"
        assert ours.execute(version).fetchall() == own.execute(version).fetchall()


def schema(database: sqlite3.Connection) -> list[tuple[str, str, list[str]]]:
    """Each table and index; MLflow writes a table's constraints in any order."""
    rows = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
    return [(kind, name, sorted(re.split(r",?\s*\n", sql or ""))) for kind, name, sql in rows]


@pytest.fixture
def here(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a database, which this process works in."""
    (tmp_path / ".dvc").mkdir()
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_folder_of_any_name_has_its_runs_in_its_own_database(
    here: Path, empty_store: Path
) -> None:
    """SQLAlchemy takes `?` for the end of a path, and `%41` for a letter."""
    root = here / "in" / "q? 100%41 a%b #c;d"
    (root / ".dvc").mkdir(parents=True)
    shutil.copyfile(empty_store, root / "mlflow.db")
    client, experiment = connect(root)
    client.create_run(experiment)
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert [*(here / "in").rglob("*.db")] == [root / "mlflow.db"]


def test_settings_of_a_connection_are_no_part_of_the_databases_name(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db?timeout=30")
    assert database_of(here) == here / "mlflow.db"
    connect(here)
    assert not [path for path in here.iterdir() if "?" in path.name]


@pytest.mark.parametrize("given", ["localhost:5999", "./mlruns", "sqlite://"])
def test_an_address_that_mlflow_does_not_take_is_named_with_the_remedy(
    given: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `http://`; a folder; in memory."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    with pytest.raises(UserError) as refusal:
        Store(here)
    text = one_sentence(refusal)
    assert f"MLflow keeps no runs in '{given}'; set MLFLOW_TRACKING_URI to http://" in text


def one_sentence(refusal: "pytest.ExceptionInfo[UserError]") -> str:
    text = str(refusal.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


REVISIONS = {"older": "451aebb31d03", "newer": "fedcba987654"}
"""A revision of MLflow's first tables; one that is not known yet."""


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS)
def test_a_database_of_another_mlflow_is_one_sentence_with_the_command(
    revision: str, here: Path
) -> None:
    path = here / "mlflow.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", [revision])
    with pytest.raises(UserError) as refusal:
        sync()
    text = one_sentence(refusal)
    assert text.startswith(f"MLflow's tracking store cannot be used: {path} is of another MLflow ")
    assert text.endswith(f"run: mlflow db upgrade 'sqlite:///{path}'.")


def refused(path: Path, *statements: str) -> sqlite3.Error:
    """What SQLite says to the last of those statements."""
    try:
        with closing(sqlite3.connect(path, timeout=0, uri=str(path).startswith("file"))) as it:
            for statement in statements:
                it.execute(statement)
    except sqlite3.Error as error:
        return error
    raise AssertionError("SQLite did not mind")


FILL = "INSERT INTO tags (key, value, run_uuid) VALUES ('k', zeroblob(9000000), 'r')"


def locked(path: Path) -> sqlite3.Error:
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        return refused(path, "BEGIN IMMEDIATE")


SQLITE: dict[str, tuple[Callable[[Path], sqlite3.Error], str]] = {
    "locked": (locked, "{path} is locked by another process; end the one that writes it"),
    "read only": (
        lambda path: refused(Path(f"file:{path}?mode=ro"), FILL),
        "{path} cannot be opened and written; correct its permissions, and its folder's",
    ),
    "full": (
        lambda path: refused(path, "PRAGMA max_page_count = 1", FILL),
        "the disk of {path} is full; make room",
    ),
}
"""How SQLite refuses, and what is said of it."""


@pytest.mark.parametrize("kind", SQLITE)
def test_what_sqlite_refuses_is_one_sentence_with_the_remedy(kind: str, here: Path) -> None:
    make, said = SQLITE[kind]
    text = str(store_failure(make(here / "mlflow.db"), here))
    path = here / "mlflow.db"
    assert f"cannot be used: {said.format(path=path)}" in text
    assert text.count(".") == str(path).count(".") + 1, "a sentence"


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda _: b"no database" * 1000,
    "all pages but the first": lambda old: old[:4096] + b"x" * (len(old) - 4096),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_database_is_one_sentence_with_the_remedy(kind: str, here: Path) -> None:
    path = here / "mlflow.db"
    path.write_bytes(DAMAGES[kind](path.read_bytes()))
    with pytest.raises(UserError) as refusal:
        sync()
    text = one_sentence(refusal)
    assert f"{path} is damaged; remove {path}, {path}-wal and {path}-shm together, and run" in text
    assert text.endswith("'runrecord sync --all'.")


def test_a_database_without_a_server_keeps_files_in_the_repository() -> None:
    for uri in ("sqlite:///a.db", "postgresql://a/b", "postgresql+psycopg://a/b", "mysql://a/b"):
        assert is_database(uri)
    for uri in ("http://a", "https://a", "databricks", "databricks://profile", "file:///a"):
        assert not is_database(uri)


def test_a_note_that_a_stopped_sync_left_half_written_goes_with_the_next(tmp_path: Path) -> None:
    left = tmp_path / ".runrecord/shown/.note.json.0a1b2c3d.new"
    left.parent.mkdir(parents=True)
    left.write_text("{")
    keep_look(tmp_path, "1", {})
    assert not left.exists()
    assert last_look(tmp_path).experiment == "1"
