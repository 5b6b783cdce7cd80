"""Whatever way DVC knows of a dependency, a clone and a remote are enough to verify a run."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from workspaces import IDENTICAL, RECORD_ONLY, Workspace, new_project, verify, with_results

from records import new_run
from runrecord.dvc.lockfiles import states
from runrecord.dvc.stages import Stage, find_stage, hash_paths
from runrecord.record.reader import Record, files_in
from runrecord.store.runs import run_dirs
from runrecord.verify.rebuild import is_of

EXEC = "runrecord exec -- sh -c"
IGNORED = "/.runrecord\n/mlflow.db*\n/mlruns\n/tensorboard\n"


def reading(*paths: str, name: str, **more: object) -> dict[str, object]:
    """A stage that reads files and folders and writes what it read."""
    out = f"{name}.out"
    command = (
        f"{EXEC} 'find {' '.join(paths)} -type f ! -name .gitignore | sort | xargs cat > {out}'"
    )
    return {"cmd": command, "deps": [*paths], "outs": [out, f"records/{name}"], **more}


def of_one(folder: Path, stage: object, files: Mapping[str, str] | None = None) -> Workspace:
    """A project of that stage, `one`, which is not run."""
    text = yaml.safe_dump({"stages": {"one": stage}})
    return new_project(
        folder / "project", {".gitignore": IGNORED, "dvc.yaml": text, **(files or {})}
    )


STAGES: dict[str, dict[str, object]] = {
    "prep": {
        "cmd": "mkdir -p prep && cp data.csv prep/train.csv && cp data.csv prep/test.csv",
        "deps": ["data.csv"],
        "outs": ["prep"],
    },
    "parts": {
        "foreach": ["one", "two"],
        "do": {"cmd": "mkdir -p parts && echo ${item} > parts/${item}", "outs": ["parts/${item}"]},
    },
    "measured": {"cmd": "echo 1 > measured.txt", "metrics": [{"measured.txt": {"cache": False}}]},
}
KINDS = {
    "an added file": "data.csv",
    "an added folder": "raw",
    "a part of one": "raw/sub/y.csv",
    "an import": "imported",
    "an imported address": "url.csv",
    "a part of an out": "prep/train.csv",
    "a folder of several outs": "parts",
    "an out in Git": "measured.txt",
    "an out of another pipeline": "c/made.txt",
    "added in a folder": "sub/own.csv",
}


@pytest.mark.slow
def test_every_kind_of_input_is_brought_to_a_clone(tmp_path: Path) -> None:
    source = new_project(tmp_path / "source", {"lib/a.csv": "5\n", "lib/b.csv": "6\n"})
    source.run("git", "rm", "-r", "--quiet", "--cached", "lib")
    source.run("dvc", "add", "--quiet", "lib")
    source.commit("lib")
    (tmp_path / "url.csv").write_text("77\n")
    files = {
        ".gitignore": IGNORED,
        ".dvcignore": IGNORED,
        "dvc.yaml": yaml.safe_dump(
            {"stages": STAGES | {"all": reading(*KINDS.values(), name="all")}}
        ),
        "c/dvc.yaml": "stages: {make: {cmd: echo c > made.txt, outs: [made.txt]}}\n",
        "sub/.keep": "",
    }
    workspace = new_project(tmp_path / "project", files)
    for name, text in {"data.csv": "9\n", "raw/x.csv": "3\n", "raw/sub/y.csv": "4\n"}.items():
        (workspace.path / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace.path / name).write_text(text)
    (workspace.path / "sub/own.csv").write_text("8\n")
    workspace.run("dvc", "add", "--quiet", "data.csv", "raw", "sub/own.csv")
    workspace.run("dvc", "import", "--quiet", str(source.path), "lib", "-o", "imported")
    workspace.run("dvc", "import-url", "--quiet", str(tmp_path / "url.csv"))
    workspace.run("dvc", "remote", "add", "--quiet", "--default", "far", str(tmp_path / "far"))
    workspace.commit("data")
    workspace.run("dvc", "repro", "-R", ".", environment=RECORD_ONLY)
    workspace.commit("results")
    workspace.run("dvc", "push", "--quiet")
    workspace.run("git", "clone", "--quiet", str(workspace.path), str(tmp_path / "clone"))
    shutil.rmtree(workspace.path)
    clone = Workspace(tmp_path / "clone")
    output = verify(clone, "HEAD:all", "--yes")
    assert IDENTICAL in output
    assert "running" not in output, "nothing was made again"
    assert not (clone.path / "data.csv").exists(), "the workspace is as it was"


def test_a_stage_is_the_same_at_its_end_wherever_dvc_was_started(tmp_path: Path) -> None:
    """Each of two of one name, whose commands both run in the root, from a folder below it."""
    here, there = (
        {
            "cmd": f"{into}{EXEC} 'cat {name}.csv > {name}.txt'",
            "deps": [f"{up}{name}.csv"],
            "outs": [f"{up}{name}.txt", f"{up}records/{name}"],
        }
        for name, into, up in (("here", "", ""), ("there", "cd .. && ", "../"))
    )
    files = {
        ".gitignore": IGNORED,
        "dvc.yaml": json.dumps({"stages": {"train": here}}),
        "sub/dvc.yaml": json.dumps({"stages": {"train": there}}),
        **{f"{name}.csv": f"{name}\n" for name in ("here", "there")},
    }
    workspace = new_project(tmp_path / "project", files)
    inside = Workspace(workspace.path / "sub")
    for given, name, stage in (
        ("../dvc.yaml:train", "here", "train"),
        ("train", "there", "sub/dvc.yaml:train"),
    ):
        inside.run("dvc", "repro", given, environment=RECORD_ONLY)
        start = json.loads(workspace.read(f"records/{name}/run.json"))
        assert (start["stage"], [*start["deps"]]) == (stage, [f"{name}.csv"])


def test_a_stage_that_works_in_a_folder_of_another_of_its_name_is_not_that_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = f"{EXEC} 'echo $DVC_STAGE'"
    own = f"stages: {{train: {{cmd: cd sub && {train}, outs: [records/root]}}}}"
    (here / "dvc.yaml").write_text(own)
    (here / "sub").mkdir()
    its = f"stages: {{train: {{cmd: {train}, outs: [../records/sub]}}}}"
    (here / "sub/dvc.yaml").write_text(its)
    Workspace(here).run("dvc", "repro", "-R", ".", environment=RECORD_ONLY)
    for name, stage in (("root", "train"), ("sub", "sub/dvc.yaml:train")):
        assert json.loads((here / f"records/{name}/run.json").read_text())["stage"] == stage
    monkeypatch.setenv("RUNRECORD_EXECUTION", "of a run that is rebuilt")
    for stage in ("train", "sub/dvc.yaml:train"):
        monkeypatch.setenv("DVC_STAGE", stage)
        assert find_stage(here, stage, here / "sub").stage.name == stage
        assert find_stage(here, "train", here / "sub").stage.name == stage, "as a script may say"


def test_data_where_python_compiles_of_another_repository_and_behind_links_counts(
    here: Path,
) -> None:
    def digest(name: str, text: str) -> str:
        (here / "data/set" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "data/set" / name).write_text(text)
        return hash_paths(here, ["data/set"])["data/set"]

    for name in ("__pycache__/table.csv", "a/__pycache__/b/c.pyc", "inner/.dvc/config"):
        digest(name, "")
    (here / "data/other").mkdir()
    (here / "data/set/link").symlink_to("../other")
    (here / "data/set/itself").symlink_to(".")
    for name in ("__pycache__/table.csv", "a/__pycache__/b/c.pyc", "inner/result.txt", "link/a"):
        assert digest(name, "1") != digest(name, "2"), name
    was = digest("a.txt", "")
    for name in (
        "__pycache__/a.cpython-311.pyc",
        "a/__pycache__/f.py311.1.nbc",
        "inner/.dvc/tmp/x",
    ):
        assert digest(name, "1") == was, name


def test_what_is_no_part_of_a_run_does_not_count_and_outs_elsewhere_are_said(
    tmp_path: Path,
) -> None:
    """What .dvcignore names; a run store behind a link, as a cluster's quota may want it."""
    outside = tmp_path / "outside.txt"
    command = f"{EXEC} 'echo said > src/train.log; cat src/a.txt > one.txt; echo 2 > {outside}'"
    outs = ["one.txt", "records/one", {str(outside): {"cache": False}}]
    ignored = dict.fromkeys((".gitignore", ".dvcignore"), f"{IGNORED}*.log\n")
    stage = {"cmd": command, "deps": ["src"], "outs": outs}
    workspace = of_one(tmp_path, stage, ignored | {"src/a.txt": "a\n"})
    (tmp_path / "scratch").mkdir()
    (workspace.path / ".runrecord").symlink_to(tmp_path / "scratch")
    workspace.run("dvc", "repro", environment=RECORD_ONLY)
    output = verify(workspace, "records/one", "--yes")
    why = "not compared, as outside the repository or changed later"
    assert f"{IDENTICAL}every metric at every step, and every file it wrote; {why}: {outside}." in (
        output
    )


@pytest.mark.slow
def test_inputs_are_those_of_the_run_whatever_the_workspace_has_by_now(tmp_path: Path) -> None:
    """The dvc.lock of the run's own commit names those of the run before."""
    make = {"cmd": "cp value.txt made.txt", "deps": ["value.txt"], "outs": ["made.txt"]}
    one = reading("data.csv", "made.txt", name="one")
    files = {
        ".gitignore": f"{IGNORED}/data.csv\n/made.txt\n",
        "dvc.yaml": yaml.safe_dump({"stages": {"make": make, "one": one}}),
    }
    workspace = new_project(tmp_path / "project", files)
    for number in (1, 2, 3):
        for name in ("data.csv", "value.txt"):
            (workspace.path / name).write_text(f"{number}\n")
        workspace.run("dvc", "add", "--quiet", "data.csv")
        workspace.commit(f"data {number}")
        with_results(workspace)
    (workspace.path / "data.csv").write_text("other\n")
    (workspace.path / "made.txt").unlink()
    output = verify(workspace, "HEAD~2:one")
    assert IDENTICAL in output
    assert "running" not in output
    assert workspace.read("data.csv") == b"other\n"
    shutil.rmtree(workspace.path / ".dvc/cache")
    output = verify(workspace, run_dirs(workspace.path)[0].name, status=2)
    assert "cannot be rebuilt: data.csv, which it read, is neither here nor in DVC's" in output
    assert "dvc push" in output


@pytest.mark.slow
def test_what_a_lost_input_is_made_from_comes_from_the_cache(tmp_path: Path) -> None:
    make = {"cmd": "wc -l < raw.csv > made.txt", "deps": ["raw.csv"], "outs": ["made.txt"]}
    stages = {"make": make, "one": reading("made.txt", name="one")}
    files = {".gitignore": IGNORED, "dvc.yaml": yaml.safe_dump({"stages": stages})}
    workspace = new_project(tmp_path / "project", files)
    (workspace.path / "raw.csv").write_text("1\n2\n")
    workspace.run("dvc", "add", "--quiet", "raw.csv")
    with_results(workspace)
    (out,) = yaml.safe_load(workspace.read("dvc.lock"))["stages"]["make"]["outs"]
    (workspace.path / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]).unlink()
    (workspace.path / "made.txt").unlink()
    output = verify(workspace, "HEAD:one", "--yes")
    assert "made.txt is kept nowhere: running make" in output
    assert IDENTICAL in output


@pytest.mark.slow
def test_an_input_comes_from_the_remote_of_the_runs_commit_else_from_the_one_of_now(
    tmp_path: Path,
) -> None:
    ignored = {".gitignore": f"{IGNORED}/data.csv\n"}
    workspace = of_one(tmp_path, reading("data.csv", name="one"), ignored)
    for place, committed in (("now", False), ("was", True), ("now", True)):
        add = ("dvc", "remote", "add", "--quiet", "--default", place, str(tmp_path / place))
        if committed:
            workspace.run(*add)
        (workspace.path / "data.csv").write_text(f"{place} {committed}\n")
        workspace.run("dvc", "add", "--quiet", "data.csv")
        workspace.commit(f"data of {place}")
        with_results(workspace)
        workspace.run(*add, "--local", "--force")
        workspace.run("dvc", "push", "--quiet")
        workspace.run("dvc", "remote", "remove", "--local", place)
    shutil.rmtree(workspace.path / ".dvc/cache")
    for folder in run_dirs(workspace.path)[:2]:
        assert IDENTICAL in verify(workspace, folder.name)


@pytest.mark.parametrize(
    ("file", "was", "later"),
    [("params.yaml", "lr: 1", "lr: 2"), ("dvc.yaml", "code.py 0.1", "code.py 0.15")],
    ids=["param", "command"],
)
def test_a_commit_of_other_params_or_another_command_stands_for_no_run(
    here: Path,
    program: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    file: str,
    was: str,
    later: str,
) -> None:
    script = "import runrecord, sys\nwith runrecord.start_run('train') as run:\n"
    script += "    run.log({'lr': run.params['lr'] + float(sys.argv[1])})\n"
    (here / "src/code.py").write_text(f"{script}    open('model.bin', 'w').close()\n")
    pipeline = (here / "dvc.yaml").read_text()
    (here / "dvc.yaml").write_text(pipeline.replace("code.py,", "code.py 0.1,", 1))
    project = Workspace(here)
    project.commit("the run's")
    monkeypatch.setattr(sys, "argv", ["src/code.py", "0.1"])
    runpy.run_path("src/code.py")
    (here / file).write_text((here / file).read_text().replace(was, later))
    project.commit("later")
    start = here / "records/train/run.json"
    head = project.run("git", "rev-parse", "HEAD~1").strip()
    start.write_text(start.read_text().replace(head, "f" * 40))
    output = program("verify", "records/train", "--yes")
    assert IDENTICAL in output
    assert f"{head[:10]} in place of" in " ".join(output.replace(";", "").split())
    output = program("doctor", status=1)
    assert f"✗ commits: no branch or tag holds {'f' * 40}, of " in output
    assert "it is gone here too; 'runrecord verify' looks for" in output


def test_a_squashed_commit_of_another_file_of_params_stands_for_its_run(tmp_path: Path) -> None:
    stage = reading("code.py", name="one") | {"params": [{"conf.yaml": ["lr"]}]}
    workspace = of_one(tmp_path, stage, {"code.py": "", "conf.yaml": "lr: 1\n"})
    (workspace.path / "conf.yaml").write_text("lr: 2\n")
    workspace.commit("lr 2")
    with_results(workspace)
    workspace.run("git", "reset", "--quiet", "--soft", "HEAD~2")
    workspace.commit("squashed")
    workspace.run("git", "reflog", "expire", "--expire=now", "--all")
    workspace.run("git", "gc", "--quiet", "--prune=now")
    output = verify(workspace, "HEAD:one", "--yes")
    assert IDENTICAL in output
    assert "in place of" in output


def test_a_stage_is_that_of_a_run_as_far_as_the_record_tells(here: Path) -> None:
    words = ("src/code.py", "--lr", "0.1", "--name", "a b")
    new_run(here / "run", params={"lr": 1}, command=words)
    start = Record(files_in(here / "run")).start
    for command, equal in {
        "python src/code.py --lr 0.1 --name 'a b' > log": True,
        'echo 1; python src/code.py --lr 0.1 --name "a b"; echo 2': True,
        "for f in 1 2; do python src/code.py $f; done": True,
        "sh run.sh": True,
        "python src/code.py --lr 0.1 --name 'a b' --more": False,
        "python src/code.py --lr 0.1 --name 'a bc'": False,
    }.items():
        assert is_of(start, Stage("train", (command,)), here) == equal, command
    fit: list[dict[str, Any]] = [{"lr": 1.0}, {"lr": 1, "own": 2}, {"own": 2}, {"lr": "***"}]
    for params in (*fit, {"lr": 2}, {}):
        assert is_of(replace(start, params=params), Stage("train"), here) == (params in fit)


def test_nothing_is_written_behind_a_link_that_leads_out_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    out = {"models/m.txt": {"cache": False}}
    stage = {"cmd": f"{EXEC} 'pwd > models/m.txt'", "outs": [out, "records/one"]}
    workspace = of_one(tmp_path, stage)
    (workspace.path / "models").symlink_to(tmp_path / "disk")
    workspace.commit("link")
    workspace.run("dvc", "repro", environment=RECORD_ONLY)
    before = workspace.read("models/m.txt")
    output = verify(workspace, "records/one", "--yes", status=2)
    assert "models/m.txt is behind a link that leads out of the repository" in output
    assert workspace.read("models/m.txt") == before


@pytest.mark.parametrize("outside", ["absolute", "relative"])
def test_a_dependency_outside_the_repository_is_part_of_what_a_run_read(
    tmp_path: Path, outside: str
) -> None:
    file = tmp_path / "outside/x.csv"
    file.parent.mkdir()
    file.write_text("5\n")
    path = str(file) if outside == "absolute" else "../outside"
    edit = f"test ! -e edit || echo 7 > {file}"
    stage = {"cmd": f"{EXEC} 'cat {file} > one.txt; {edit}'", "deps": [path]}
    workspace = of_one(tmp_path, stage | {"outs": ["one.txt", "records/one"]})
    workspace.run("dvc", "repro", environment=RECORD_ONLY)
    assert [*json.loads(workspace.read("records/one/run.json"))["deps"]] == [path]
    (workspace.path / "edit").touch()
    output = workspace.run("dvc", "repro", "--force", status=255, environment=RECORD_ONLY)
    assert f"{path} changed while one ran" in output
    if outside == "absolute":
        (run, _) = run_dirs(workspace.path)
        output = verify(workspace, run.name, "--yes", status=1)
        assert f"the rebuilt run had another {path} (data)" in output


def test_files_of_a_record_that_dvcignore_hides_are_named(tmp_path: Path) -> None:
    script = "import runrecord\nwith runrecord.start_run() as run: run.text('notes', 'a')\n"
    stage = {"cmd": "python one.py", "outs": ["records/one"]}
    workspace = of_one(tmp_path, stage, {"one.py": script, ".dvcignore": "*.txt\n"})
    output = workspace.run("dvc", "repro", environment=RECORD_ONLY)
    assert re.search(r"warning: \.dvcignore hides texts/notes-\w+\.txt in records/one", output)
    (workspace.path / ".dvcignore").write_text("*.txt\n!/records/one/**\n")
    assert "hides" not in workspace.run("dvc", "repro", "--force", environment=RECORD_ONLY)


@pytest.mark.slow
def test_a_project_in_a_folder_of_a_repository_is_brought_its_inputs_too(tmp_path: Path) -> None:
    top = Workspace(tmp_path / "top")
    inside = Workspace(top.path / "inside")
    inside.path.mkdir(parents=True)
    stage = reading("../../inputs", "../data.csv", "../prep", name="one")
    stage |= {
        "wdir": "c",
        "deps": ["../data.csv", "../prep"],
        "outs": ["one.out", "../records/one"],
    }
    files = {
        "../inputs/beside.txt": "2\n",
        ".gitignore": f"{IGNORED}/data.csv\n",
        "dvc.yaml": yaml.safe_dump({"stages": {"one": stage}}),
        "c/dvc.yaml": json.dumps(
            {"stages": {"make": {"cmd": "cp data.csv prep", "wdir": "..", "outs": ["prep"]}}}
        ),
        "data.csv": "1\n",
    }
    for name, text in files.items():
        (inside.path / name).parent.mkdir(exist_ok=True)
        (inside.path / name).write_text(text)
    top.run("git", "init", "--quiet", "--initial-branch=main")
    inside.run("dvc", "init", "--quiet", "--subdir")
    inside.run("dvc", "add", "--quiet", "data.csv")
    inside.run("dvc", "remote", "add", "--quiet", "--default", "far", str(tmp_path / "far"))
    top.commit("data")
    inside.run("dvc", "repro", "-R", ".", environment=RECORD_ONLY)
    top.commit("results")
    inside.run("dvc", "push", "--quiet")
    top.run("git", "clone", "--quiet", str(top.path), str(tmp_path / "clone"))
    shutil.rmtree(top.path)
    clone = Workspace(tmp_path / "clone/inside")
    output = verify(clone, "HEAD", "--yes")
    assert IDENTICAL in output
    assert "running" not in output
    assert "1 created" in clone.run("runrecord", "sync", "--all")


@pytest.mark.parametrize(
    ("stages", "known"),
    [
        ({"train-a": {"cmd": "x"}}, ["a"]),
        ({"train": {"foreach": ["a"], "do": {"cmd": "x"}}}, ["b"]),
        ({"train-a": None}, ["a"]),
        ({}, ["a", "b"]),
    ],
)
def test_what_dvc_left_of_a_stage_that_has_another_name_now_is_no_result(
    tmp_path: Path, stages: dict[str, object], known: list[str]
) -> None:
    outs = {"train-a": [{"path": "records/a", "md5": "a" * 32 + ".dir"}]}
    outs["train@a"] = [{"path": "records/a", "md5": "b" * 32 + ".dir"}]
    locked = {"schema": "2.0", "stages": {name: {"outs": one} for name, one in outs.items()}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(locked))
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    assert [out.oid[0] for out in next(states(tmp_path)).outs] == known


@pytest.mark.parametrize("place", [{"outs": ["new/one.out"]}, {"wdir": "new", "outs": ["one.out"]}])
def test_a_folder_that_no_commit_has_yet_is_made_for_what_is_written_there(
    tmp_path: Path, place: dict[str, Any]
) -> None:
    """Git keeps no empty folder, and a first run is from a commit without its outs."""
    up = "../" if "wdir" in place else ""
    command = f"{EXEC} 'echo 1 > {place['outs'][0]}'"
    outs = [*place["outs"], f"{up}records/one"]
    workspace = of_one(tmp_path, {"cmd": command, **place, "outs": outs})
    (workspace.path / "new").mkdir()
    workspace.run("dvc", "repro", environment=RECORD_ONLY)
    assert IDENTICAL in verify(workspace, "records/one")


@pytest.mark.parametrize("added", [False, True])
def test_a_folder_without_files_is_brought_as_one(tmp_path: Path, added: bool) -> None:
    workspace = of_one(tmp_path, reading("some", name="one"), {".gitignore": f"{IGNORED}/some\n"})
    (workspace.path / "some").mkdir()
    if added:
        workspace.run("dvc", "add", "--quiet", "some")
        workspace.commit("some")
    workspace.run("dvc", "repro", environment=RECORD_ONLY)
    assert IDENTICAL in verify(workspace, "records/one")
