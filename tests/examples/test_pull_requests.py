"""The workflow of docs/runrecord/pull-requests.md: its script, walked on a branch of a project."""

import re

import pytest
import yaml
from workspaces import RECORD_ONLY, ROOT, Workspace

PAGE = ROOT / "docs" / "runrecord" / "pull-requests.md"


def script() -> str:
    """What the workflow runs to compare and to verify."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    steps = yaml.safe_load(text)["jobs"]["runs"]["steps"]
    (found,) = [step for step in steps if step.get("name") == "Compare and verify"]
    assert (found["shell"], [*found["env"]]) == ("bash", ["BASE"])
    return str(found["run"])


@pytest.fixture
def branch(toy: Workspace) -> Workspace:
    """A branch of the toy project, at whose start `main` is."""
    (toy.path / "project.py").write_text(
        "from runrecord import Project\nPROJECT = Project(better={'Length': 'lower'})\n"
    )
    (toy.path / "pyproject.toml").write_text("[tool.runrecord]\nproject = 'project:PROJECT'\n")
    toy.commit("a way to be better")
    toy.run("git", "branch", "base")
    return toy


def walked(branch: Workspace, status: int = 0) -> str:
    """What the script leaves to comment; nothing where no run changed."""
    comment = branch.path / "comment.md"
    comment.unlink(missing_ok=True)
    branch.run("bash", "-e", "-o", "pipefail", "-c", script(), status=status, BASE="base")
    return comment.read_text() if comment.exists() else ""


@pytest.mark.slow
def test_a_changed_run_is_compared_and_verified_and_one_that_differs_fails_the_check(
    branch: Workspace,
) -> None:
    assert walked(branch) == ""
    branch.set_params(train__lr=0.25)
    branch.run("dvc", "repro", environment=RECORD_ONLY)
    branch.commit("a smaller step")
    said = walked(branch)
    assert re.search(r"^\| train\.lr \| 0\.5 \| 0\.25 \|$", said, re.MULTILINE), said
    assert re.search(r"^\| Length \(lower is better\) \|.* \*\*[\d.]+\*\* \|", said, re.MULTILINE)
    verdict = r"^- `.*\b(evaluate|train)-\d{8}-.*` is \*\*(.+)\*\* when run again$"
    assert re.findall(verdict, said, re.MULTILINE) == [
        ("evaluate", "bit-identical"),
        ("train", "bit-identical"),
    ]

    text = (branch.path / "train.py").read_text()
    drawn = text.replace("MT19937(0)", "MT19937(int.from_bytes(os.urandom(4)))")
    (branch.path / "train.py").write_text(drawn)
    branch.run("dvc", "repro", environment=RECORD_ONLY)
    branch.commit("drawn anew each time")
    assert re.search(r"^- `train-[\w-]+` is \*\*different\*\*", walked(branch, 1), re.MULTILINE)
