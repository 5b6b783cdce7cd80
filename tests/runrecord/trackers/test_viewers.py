"""Both user interfaces in a real browser, as a person would look at them."""

import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_views import forget_mlflow, runs
from playwright.sync_api import Page, expect
from servers import viewing
from workspaces import EXPERIMENT, STAGES, Workspace, new_project

from records import end_run, new_run, play
from runrecord.cli.pages import HOST, free_port
from runrecord.trackers.mlflow.sink import MlflowSink
from runrecord.trackers.tensorboard import TensorBoardSink

MARKUP = "<img src=x onerror=\"document.title='owned'\">"
FOREIGN = "train-20260101-000000-ffffff"
"""The run of somebody else, with markup in its record."""


@pytest.fixture(scope="module")
def viewed(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the built workspace with its runs, and with one that somebody else recorded."""
    workspace = Workspace(tmp_path_factory.mktemp("viewed") / "repository")
    shutil.copytree(built.path, workspace.path, symlinks=True)
    forget_mlflow(workspace)  # it names the folder that it was copied from
    workspace.run("runrecord", "sync")
    record = workspace.path / "records" / "foreign"
    run = new_run(record, id=FOREIGN, params={"optimizer": MARKUP}, tags={"git.branch": MARKUP})
    run.log({"Test/Total Loss": 1.0}, step=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        play(workspace.path, end_run(record), MlflowSink, TensorBoardSink)
    return workspace


@pytest.fixture(scope="module")
def mlflow_at(viewed: Workspace) -> Iterator[str]:
    with viewing(viewed, "mlflow") as address:
        yield address


@pytest.fixture(scope="module")
def tensorboard_at(viewed: Workspace) -> Iterator[str]:
    with viewing(viewed, "tensorboard") as address:
        yield address


def wait_for_picture(page: Page, width: int = 300) -> None:
    """Until some picture of ours, also one inside web components, has been drawn."""
    page.wait_for_function(
        """(width) => {
            const images = (root) => [...root.querySelectorAll("*")].flatMap((node) => [
                ...(node.tagName === "IMG" ? [node] : []),
                ...(node.shadowRoot ? images(node.shadowRoot) : []),
            ]);
            return images(document).some((image) => image.naturalWidth > width);
        }""",
        arg=width,
    )


def visit(page: Page, address: str) -> None:
    """Load a page afresh, also where just the part after # differs from the one before."""
    page.goto("about:blank")
    page.goto(address)


@pytest.mark.slow
def test_mlflow_shows_runs_their_relatives_and_their_images(
    viewed: Workspace, mlflow_at: str, page: Page
) -> None:
    own = {run.info.run_name: run.info for run in runs(viewed) if run.info.run_name != FOREIGN}
    assert len(own) == len(STAGES)
    (vae,) = (run for name, run in own.items() if name.startswith("train-vae"))
    experiment = f"{mlflow_at}/#/experiments/{vae.experiment_id}"
    visit(page, f"{experiment}/runs/{vae.run_id}")
    expect(page.get_by_text(f"runrecord verify {vae.run_name}").first).to_be_visible()
    visit(page, f"{experiment}/runs/{vae.run_id}/model-metrics")
    expect(page.get_by_text("Eval/Reconstruction").first).to_be_visible()

    visit(page, f"{experiment}/runs/{vae.run_id}/artifacts")
    page.get_by_text("images", exact=True).first.click()
    page.get_by_text(
        re.compile(r"^Test image - Above_x3a_ Real data.*[0-9a-f]\.png$")
    ).first.click()
    wait_for_picture(page)

    (foreign,) = (run.info.run_id for run in runs(viewed) if run.info.run_name == FOREIGN)
    visit(page, f"{experiment}/runs/{foreign}")
    expect(page.get_by_text(MARKUP).first).to_be_visible()
    assert page.title() != "owned", "markup in somebody else's record is shown as text"


@pytest.mark.slow
def test_tensorboard_shows_scalars_and_images(tensorboard_at: str, page: Page) -> None:
    visit(page, f"{tensorboard_at}/#scalars")
    for text in ("Test/Total Loss", "Test/KL-Divergence"):
        expect(page.get_by_text(text).first).to_be_visible()
    groups = page.locator("tf-category-paginated-view .heading .name, .heading .name")
    headings = [text.strip() for text in groups.all_inner_texts() if text.strip()]
    assert headings[:2] == ["Test", "Train"], "the chapter's six curves come first"
    visit(page, f"{tensorboard_at}/#images")
    wait_for_picture(page)
    visit(page, f"{tensorboard_at}/#hparams")
    for text in ("latent_dim", "evaluate-"):
        expect(page.get_by_text(text).first).to_be_visible()
    visit(page, f"{tensorboard_at}/#projector")
    projector = page.frame_locator("iframe").frame_locator("iframe")
    expect(projector.get_by_text("Points: 128")).to_be_visible()
    chosen = projector.get_by_role("button", name="1 tensor found")
    expect(chosen).to_have_value(re.compile("Embedding of v?ae"))  # whichever it lists first
    visit(page, f"{tensorboard_at}/#text")
    expect(page.get_by_text(MARKUP).first).to_be_visible()
    assert page.title() != "owned"


MAIN = ("-c", "from runrecord.cli import main; main()")
OTHER_HOST = "127.0.0.2"
"""Another address of this machine's, as a stranger would come by one."""


@pytest.fixture
def bare(tmp_path: Path, empty_store: Path) -> Workspace:
    """A project that nothing was run in, with a module that has the name of another."""
    files = {"dvc.yaml": "stages: {}\n", "tensorboard.py": "raise SystemExit('mine')"}
    project = new_project(tmp_path / EXPERIMENT, files)
    shutil.copyfile(empty_store, project.path / "mlflow.db")
    return project


@pytest.mark.slow
@pytest.mark.parametrize("viewer", ["mlflow", "tensorboard"])
def test_a_viewer_answers_this_machine_alone_and_needs_no_program_beside_python(
    viewer: str, bare: Workspace, tmp_path: Path
) -> None:
    """As `pip install --user` has it: Python's folder has no programs of packages."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.symlink_to(Path(sys.executable).resolve())
    program = (str(python), "-P", *MAIN)
    with viewing(bare, viewer, program=program, PYTHONPATH=os.pathsep.join(sys.path)) as address:
        port = int(address.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((OTHER_HOST, port), timeout=5)


@pytest.mark.slow
def test_who_lets_others_see_the_runs_is_warned_and_who_is_elsewhere_is_told_how(
    bare: Workspace,
) -> None:
    said: list[str] = []
    with viewing(bare, "tensorboard", "--host", "0.0.0.0", said=said) as address:
        port = int(address.rpartition(":")[2])
        socket.create_connection((OTHER_HOST, port), timeout=5).close()
    assert "warning: whoever reaches 0.0.0.0 can see and change all runs" in said[0]
    with viewing(bare, "tensorboard", said=said, SSH_CONNECTION="there here") as address:
        port = int(address.rpartition(":")[2])
    assert f"From your own machine: ssh -L {port}:127.0.0.1:{port} " in said[1]
    assert "warning" not in said[1]


def test_a_free_port_is_taken_as_it_is_and_a_taken_one_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port, OTHER_HOST) == port, "at another address of this machine's"
        assert free_port(port) > port


@pytest.mark.slow
def test_a_tracking_servers_own_page_is_named(
    viewed: Workspace, mlflow_at: str, page: Page
) -> None:
    with_password = mlflow_at.replace("http://", "http://me:secret@")
    output = viewed.run("runrecord", "mlflow", MLFLOW_TRACKING_URI=with_password)
    assert "secret" not in output
    named = re.fullmatch(r"mlflow  http://\S+?(/#/\S+)\n", output)
    assert named
    visit(page, mlflow_at + named[1])
    for run in runs(viewed):
        expect(page.get_by_text(run.info.run_name).first).to_be_visible()
