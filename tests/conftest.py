"""The workspaces that tests share."""

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import dvc  # noqa: F401 - its log handlers keep the stdout of the first import: no test's own
import pytest
from filelock import FileLock
from needs import CHROMIUM, FIXTURES, NEEDS
from playwright.sync_api import Page, expect, sync_playwright
from workspaces import (
    EXPERIMENT,
    NO_SETTINGS,
    SAMPLE,
    STAGES,
    TOY,
    Workspace,
    new_project,
    new_repository,
    new_workspace,
    with_results,
)

from runrecord.cli import main
from runrecord.trackers.mlflow.store import connect

if TYPE_CHECKING:
    from generative.core.images import ImageSet

os.environ |= NO_SETTINGS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bare", action="store_true", help="as if nothing that tests/needs.py names were here"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs something that is not here; mark what `make smoke` leaves out.

    That is what needs a project or a store of its own, and so takes long.
    """
    for item in items:
        if {"built", "built_toy", "empty_store", "workspace"} & {*fixtures(item)}:
            item.add_marker("workspace")
        skip_where_something_is_missing(item, bare=config.getoption("--bare"))
    # The files with long tests first: then both workers end at about the same time. Of these, one
    # that needs the built workspace, which takes longest, and those that do not wait for it.
    long = {one.path for one in items if any(map(one.get_closest_marker, ("workspace", "slow")))}
    wait = {item.path for item in items if "built" in fixtures(item)}
    first = next((item.path for item in items if item.path in wait), None)
    items.sort(key=lambda item: (item.path != first, item.path not in long, item.path in wait))


def skip_where_something_is_missing(item: pytest.Item, bare: bool) -> None:
    """Before any fixture is made for it; the reason names what would install that."""
    for fixture in FIXTURES.keys() & {*fixtures(item)}:
        item.add_marker(pytest.mark.needs(*FIXTURES[fixture]))
    names = dict.fromkeys(name for mark in item.iter_markers("needs") for name in mark.args)
    missing = [NEEDS[name].missing for name in names if bare or not NEEDS[name].here]
    if missing:
        item.add_marker(pytest.mark.skip(reason="; ".join(missing)))


def fixtures(item: pytest.Item) -> Sequence[str]:
    """Those that a test has, through others too."""
    return getattr(item, "fixturenames", ())


@pytest.fixture(autouse=True)
def denormal() -> Iterator[None]:
    """What a training sets for its whole process: without small numbers hypothesis draws none."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Workspace:
    """A workspace after `dvc repro`, with its runs. Read it; copy it to change it.

    It is the same for all workers: the first that needs it makes it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base if worker_id == "master" else base.parent
    workspace, done = Workspace(shared / "built" / "repository"), shared / "built.done"
    with FileLock(shared / "built.lock"):
        if not done.exists():
            new_workspace(workspace.path)
            assert workspace.repro() == STAGES
            workspace.run("git", "add", "--all")
            workspace.run("git", "commit", "--quiet", "--message=results")
            done.touch()
    return workspace


@pytest.fixture
def workspace(built: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the built workspace, without its runs, to change at will."""
    return built.copy(tmp_path / "repository")


@pytest.fixture(scope="session")
def built_toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The toy project after `dvc repro`, committed: records, and nothing in a tracker."""
    return with_results(new_project(tmp_path_factory.mktemp("toy") / "repository", TOY))


@pytest.fixture
def toy(built_toy: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the toy project, without its runs, in a folder of the experiment's name."""
    return built_toy.copy(tmp_path / EXPERIMENT)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small DVC repository, which this process works in; runs there are on record alone."""
    folder = new_repository(tmp_path / "small")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RUNRECORD_SINKS", "off")
    for name in ("DVC_ROOT", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """`runrecord` in this process: what it prints. One of its own would first import MLflow."""

    def run(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["runrecord", *arguments])
        with patch.dict(os.environ), pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == status, said
        return said.out + said.err

    return run


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take seconds to make, and no run."""
    folder = tmp_path_factory.mktemp("store") / EXPERIMENT
    (folder / ".dvc").mkdir(parents=True)
    _, experiment = connect(folder)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        with database:
            for table in ("experiment_tags", "experiments"):
                database.execute(f"DELETE FROM {table} WHERE experiment_id = ?", [experiment])
        database.execute("VACUUM INTO ?", [str(folder / "copy.db")])
    with closing(sqlite3.connect(folder / "copy.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
    return folder / "copy.db"


@pytest.fixture(scope="module")
def data() -> "ImageSet":
    """The sample of MNIST, on the CPU: 256 images to train on, 128 to test."""
    from generative.core.compute import prepare
    from generative.core.images import load_images
    from models import compute

    return load_images(SAMPLE, prepare(compute()))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                "--use-angle=swiftshader",  # WebGL without a GPU, for TensorBoard's projector
                "--enable-unsafe-swiftshader",
            ],
        )
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)
        yield page
        browser.close()
