"""The workspaces that tests share."""

from collections.abc import Iterator
from pathlib import Path

import dvc  # noqa: F401 - its log handlers keep the stdout of the first import: no test's own
import pytest
from helpers import CHROMIUM, RECORD_ONLY, TOY, Workspace, new_project, new_workspace
from playwright.sync_api import Page, expect, sync_playwright


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a workspace, and so takes long: `make smoke` leaves it out."""
    for item in items:
        if {"built", "workspace"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("workspace")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace after `dvc repro`, with its runs. Read it; copy it to change it."""
    workspace = new_workspace(tmp_path_factory.mktemp("built") / "repository")
    assert workspace.repro() == ["download-mnist", "train-ae", "train-vae", "evaluate"]
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message=results")
    return workspace


@pytest.fixture
def workspace(built: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the built workspace, without its runs, to change at will."""
    return built.copy(tmp_path / "repository")


@pytest.fixture(scope="session")
def built_toy(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The toy project after `dvc repro`, committed: records, and nothing in a tracker."""
    workspace = new_project(tmp_path_factory.mktemp("toy") / "repository", TOY)
    workspace.run("dvc", "repro", environment=RECORD_ONLY)
    workspace.run("git", "add", "--all")
    workspace.run("git", "commit", "--quiet", "--message=results")
    return workspace


@pytest.fixture
def toy(built_toy: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the toy project, without its runs, to change at will."""
    return built_toy.copy(tmp_path / "repository")


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
