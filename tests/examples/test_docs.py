"""The engine's guides: what they mark as runnable is run. All docs: what they name is there."""

import dataclasses
import inspect
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from workspaces import IDENTICAL, RECORD_ONLY, ROOT, Workspace, new_workspace, spool, wait_until

from runrecord import Project, Run
from runrecord.record.reader import Record, files_in, view

GUIDE = ROOT / "docs" / "runrecord" / "guide.md"
FRAMEWORKS = GUIDE.with_name("frameworks.md")
_SNIPPET = re.compile(r"^<!-- runnable: (\w+)(?:/(\S+))? -->\n```(\w*)\n(.*?)^```$", re.M | re.S)

pytestmark = pytest.mark.workspace


@dataclass(frozen=True)
class Snippet:
    project: str
    file: str
    """The file that it is the content of, if it is one."""
    language: str
    text: str


def snippets() -> list[Snippet]:
    pages = (page.read_text(encoding="utf-8") for page in (GUIDE, FRAMEWORKS))
    return [Snippet(*found) for text in pages for found in _SNIPPET.findall(text)]


def begin(workspace: Workspace) -> None:
    workspace.run("git", "init", "--quiet")
    workspace.run("dvc", "init", "--quiet")
    workspace.commit("begin")


def run_all(workspace: Workspace) -> Iterator[tuple[str, str]]:
    """Do what the guide says of a project, in its order; each command, and what it printed."""
    workspace.path.mkdir()
    for snippet in snippets():
        if snippet.project != workspace.path.name:
            continue
        if snippet.file:
            (workspace.path / snippet.file).write_text(snippet.text)
            continue
        if "git init" not in snippet.text and not (workspace.path / ".git").exists():
            begin(workspace)
        if snippet.language == "diff":
            (workspace.path.parent / "diff").write_text(snippet.text)
            workspace.run("git", "apply", "--whitespace=error", "../diff")
            continue
        assert snippet.language == "sh"
        for command in snippet.text.splitlines():
            yield command, workspace.run("sh", "-c", command, environment=RECORD_ONLY)


def test_every_snippet_that_is_marked_is_found() -> None:
    pages = (GUIDE, FRAMEWORKS)
    marked = sum(page.read_text(encoding="utf-8").count("<!-- runnable") for page in pages)
    assert len(snippets()) == marked == 29


def test_a_clone_has_the_same_bytes_whatever_git_makes_of_line_ends_there(tmp_path: Path) -> None:
    """By attributes that the example, and what the guide begins with, have too."""
    attributes = "* text=auto eol=lf\n"
    (of_the_guide,) = [one.text for one in snippets() if one.file == ".gitattributes"]
    of_the_example = (ROOT / "examples/sklearn-digits/.gitattributes").read_text()
    assert of_the_guide == of_the_example == attributes
    assert (ROOT / ".gitattributes").read_text().startswith(attributes)
    source, clone = new_workspace(tmp_path / "source"), tmp_path / "clone"
    source.run("git", "clone", "--quiet", "--config", "core.autocrlf=true", ".", str(clone))
    names = source.run("git", "ls-files", "-z").split("\0")[:-1]
    assert len(names) > 50
    assert [name for name in names if (clone / name).read_bytes() != source.read(name)] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("guide")


OF_FRAMEWORKS = [
    pytest.param(name, marks=[pytest.mark.slow, pytest.mark.needs("frameworks")])
    for name in ("lightning", "transformers")
]


@pytest.fixture(
    scope="module",
    params=["walk", "count", pytest.param("sine", marks=pytest.mark.slow), *OF_FRAMEWORKS],
)
def said(folder: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """What each command for a project printed."""
    return dict(run_all(Workspace(folder / request.param)))


@pytest.mark.slow
def test_the_guides_projects_run_and_are_bit_identical(said: dict[str, str]) -> None:
    verified = [output for command, output in said.items() if "verify" in command]
    assert verified
    assert all(IDENTICAL in output for output in verified)


@pytest.mark.slow
def test_the_plain_script_ran_before_and_eight_lines_change_no_result(tmp_path: Path) -> None:
    ours = [snippet for snippet in snippets() if snippet.project == "sine"]
    workspace = Workspace(tmp_path / "sine")
    workspace.path.mkdir()

    def weights() -> bytes:
        workspace.run("python", "train.py", environment={"DVC_STAGE": "train", **RECORD_ONLY})
        arrays = torch.load(workspace.path / "model.pt")
        return b"".join(array.numpy().tobytes() for array in arrays.values())

    for snippet in ours[:3]:
        (workspace.path / snippet.file).write_text(snippet.text)
    begin(workspace)
    before = weights()
    assert not (workspace.path / "records").exists()
    changes = [snippet.text for snippet in ours if snippet.language == "diff"]
    assert len(re.findall(r"^\+(?!\+\+)", changes[0], re.M)) <= 8
    for snippet in ours[3:]:
        if snippet.file:
            (workspace.path / snippet.file).write_text(snippet.text)
        if snippet.language == "diff":
            (tmp_path / "diff").write_text(snippet.text)
            workspace.run("git", "apply", "--whitespace=error", "../diff")
            assert weights() == before
    records = [Record(files_in(folder)) for folder in spool(workspace)]
    assert [record.end and record.end.status for record in records] == ["FINISHED"] * 2
    assert list(view(records[-1]).series["loss"]) == list(range(1, 21))


@pytest.mark.slow
@pytest.mark.parametrize("said", ["sine"], indirect=True)
@pytest.mark.usefixtures("said")
def test_the_guides_pytorch_state_goes_on_to_the_same_bytes(folder: Path) -> None:
    workspace = Workspace(folder / "sine")
    workspace.set_params(epochs=150)
    command = ("dvc", "repro")
    variables = workspace.environment | RECORD_ONLY
    with subprocess.Popen(command, cwd=workspace.path, env=variables, process_group=0) as process:
        kept = workspace.path / ".runrecord" / "checkpoints"
        wait_until(lambda: any(int(file.stem) > 5 for file in kept.glob("*/*/*.safetensors")))
        os.killpg(process.pid, signal.SIGKILL)
    output = workspace.run(*command, environment=RECORD_ONLY)
    assert re.search(r"resuming \S*train-\S+ after epoch \d+", output)
    assert IDENTICAL in workspace.run("runrecord", "verify", "records/train")


LOGGED = {
    "lightning": {"epoch": 24, "loss": 24},
    "transformers": {
        **dict.fromkeys(("loss", "learning_rate", "grad_norm"), 24),
        "eval_loss": 3,
        "epoch": 24,
        "train_loss": 1,
        "total_flos": 1,
    },
}
"""How many points of each metric a trainer logs in three epochs of eight steps."""


@pytest.mark.parametrize("said", OF_FRAMEWORKS, indirect=True)
@pytest.mark.usefixtures("said")
def test_what_a_trainer_logs_is_on_record_and_one_told_to_stop_leaves_a_killed_run(
    folder: Path, request: pytest.FixtureRequest
) -> None:
    project = request.node.callspec.params["said"]
    workspace, adapter = Workspace(folder / project), adapter_of(project)
    record = view(Record(files_in(workspace.path / "records" / "train")))
    assert {name: len(points) for name, points in record.series.items()} == LOGGED[project]
    losses = [value for _, (value, _) in sorted(record.series["loss"].items())]
    assert losses[-1] < losses[0] / 2
    assert {*record.files} == ({"hyperparameters"} if project == "lightning" else set())
    assert ("train_runtime" in record.observed) == (project == "transformers")
    assert len(adapter.text.splitlines()) <= 60

    stop = "__import__('signal').raise_signal(15)"
    text, found = re.subn(r"^( +)(self\.\w+\.log\()", rf"\1{stop}\n\1\2", adapter.text, flags=re.M)
    assert found == 1
    (workspace.path / adapter.file).write_text(text)
    workspace.run("dvc", "repro", status=255, environment=RECORD_ONLY)
    (workspace.path / adapter.file).write_text(adapter.text)
    end = Record(files_in(spool(workspace)[-1])).end
    assert end is not None
    assert end.status == "KILLED"


def adapter_of(project: str) -> Snippet:
    """The file that is there to be copied."""
    (adapter,) = [one for one in snippets() if one.project == project and "run_" in one.file]
    return adapter


def table(heading: str) -> list[list[str]]:
    """The rows of the guide's first table under a heading, less its head."""
    section = GUIDE.read_text("utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_guide_names_every_call_and_every_setting() -> None:
    calls = {re.match(r"`run\.(\w+)\(", row[0]) for row in table("Logging")}
    public = {
        name for name, _ in inspect.getmembers(Run, inspect.isfunction) if not name.startswith("_")
    }
    assert {call[1] for call in calls if call} == public
    fields = {}
    for field in dataclasses.fields(Project):
        made = field.default_factory
        value = field.default if made is dataclasses.MISSING else made()
        fields[f"`{field.name}`"] = "`" + repr(value).replace("'", '"') + "`"
    assert {row[0]: row[1] for row in table("Settings of a project")} == fields


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*/*.md")])


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        target = page.parent / file if file else page
        assert target.exists(), file
        assert not anchor or anchor in headings(target), f"{file}#{anchor}"


@pytest.mark.parametrize(("page", "least"), [("promises.md", 50), ("field.md", 15)])
def test_every_test_that_stands_for_a_promise_is_there(page: str, least: int) -> None:
    text = (ROOT / "docs" / "runrecord" / page).read_text(encoding="utf-8")
    named = re.findall(r"`(tests/\w+/)?(test_\w+\.py)(?:::(test_\w+))?`", text)
    assert len(named) > least
    for folder, file, test in named:
        (path,) = (ROOT / (folder or "tests/runrecord")).rglob(file)
        code = path.read_text(encoding="utf-8")
        assert not test or f"\ndef {test}(" in code, test
    for row in re.findall(r"^\| .*\|$", text, re.MULTILINE)[1:]:
        assert "`test_" in row or "`tests/" in row or page == "field.md", row
