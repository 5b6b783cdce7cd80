"""The engine's guides: what they mark as runnable is run. All docs: what they name is there."""

import dataclasses
import inspect
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from workspaces import RECORD_ONLY, ROOT, Workspace, new_project, spool, tracked, wait_until

from runrecord import Project, Run
from runrecord.record.reader import Record, files_in, view

GUIDE = ROOT / "docs" / "runrecord" / "guide.md"
FRAMEWORKS = GUIDE.with_name("frameworks.md")
IDENTICAL = "Verdict: bit-identical: every metric at every step, and every file it wrote."
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
            new_project(workspace.path, {})
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


def files_of(place: str) -> dict[str, bytes]:
    """What is committed of a project, by name."""
    if place == "the guide":
        ours = (one for one in snippets() if one.project == "walk" and one.file)
        return {one.file: one.text.encode() for one in ours}
    return {name: (ROOT / place / name).read_bytes() for name in tracked(ROOT / place)}


@pytest.mark.parametrize("place", [".", "examples/sklearn-digits", "the guide"])
def test_a_clone_has_the_same_bytes_whatever_git_makes_of_line_ends_there(
    place: str, tmp_path: Path
) -> None:
    files, source, clone = files_of(place), Workspace(tmp_path / "source"), tmp_path / "clone"
    for name, content in files.items():
        (source.path / name).parent.mkdir(parents=True, exist_ok=True)
        (source.path / name).write_bytes(content)
    source.run("git", "init", "--quiet")
    source.run("git", "add", "--all", "--force")
    source.run("git", "commit", "--quiet", "--message=all")
    source.run("git", "clone", "--quiet", "--config", "core.autocrlf=true", ".", str(clone))
    assert len(files) > 4
    assert {name: (clone / name).read_bytes() for name in files} == files


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
def test_the_plain_script_ran_before_and_eight_lines_change_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both run in this process, which has PyTorch: importing it takes longer than all the rest."""
    ours = [snippet for snippet in snippets() if snippet.project == "sine"]
    workspace = Workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name, value in {"DVC_STAGE": "train", **RECORD_ONLY}.items():
        monkeypatch.setenv(name, value)

    def weights() -> bytes:  # in a thread, a run leaves this process's signals alone
        with torch.random.fork_rng(devices=[]), ThreadPoolExecutor(1) as pool:
            pool.submit(runpy.run_path, "train.py", run_name="__main__").result()
        arrays = torch.load("model.pt")
        Path("model.pt").unlink()
        return b"".join(array.numpy().tobytes() for array in arrays.values())

    plain, changes = ours[:3], [snippet for snippet in ours if snippet.language == "diff"]
    for snippet in plain:
        (tmp_path / snippet.file).write_text(snippet.text)
    new_project(tmp_path, {})
    before = weights()
    assert not (tmp_path / "records").exists()
    added = re.findall(r"^\+(?!\+\+)", changes[0].text, re.M)
    assert len(added) <= 8
    for snippet in ours[3:]:
        if snippet.file:
            (tmp_path / snippet.file).write_text(snippet.text)
        if snippet.language == "diff":
            (tmp_path / "diff").write_text(snippet.text)
            workspace.run("git", "apply", "--whitespace=error", "diff")
            assert weights() == before
            record = Record(files_in(tmp_path / "records" / "train"))
            assert record.end is not None
            assert record.end.status == "FINISHED"
            assert list(view(record).series["loss"]) == list(range(1, 21))
    assert len(spool(workspace)) == len(changes) == 2
    del sys.modules["state"]


@pytest.mark.slow
@pytest.mark.parametrize("said", ["sine"], indirect=True)
def test_the_guides_pytorch_state_goes_on_to_the_same_bytes(
    said: dict[str, str], folder: Path
) -> None:
    assert said
    workspace = Workspace(folder / "sine")
    workspace.set_params(epochs=150)
    command = ("dvc", "repro")
    with subprocess.Popen(
        command,
        cwd=workspace.path,
        env=workspace.environment | RECORD_ONLY,
        start_new_session=True,
    ) as process:
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
def test_what_a_trainer_logs_is_on_record_at_its_own_steps(
    said: dict[str, str], folder: Path, request: pytest.FixtureRequest
) -> None:
    assert said
    project = request.node.callspec.params["said"]
    record = view(Record(files_in(folder / project / "records" / "train")))
    assert {name: len(points) for name, points in record.series.items()} == LOGGED[project]
    losses = [value for _, (value, _) in sorted(record.series["loss"].items())]
    assert losses[-1] < losses[0] / 2
    assert {*record.files} == ({"hyperparameters"} if project == "lightning" else set())
    assert ("train_runtime" in record.observed) == (project == "transformers")
    assert len(adapter_of(project).text.splitlines()) <= 60


@pytest.mark.parametrize("said", OF_FRAMEWORKS, indirect=True)
def test_a_trainer_that_is_told_to_stop_leaves_a_killed_run(
    said: dict[str, str], folder: Path, request: pytest.FixtureRequest
) -> None:
    assert said
    adapter = adapter_of(request.node.callspec.params["said"])
    workspace = Workspace(folder / adapter.project)
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
    """The rows of the first table under a heading, less its head."""
    section = (
        GUIDE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    )
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
