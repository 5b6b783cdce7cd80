"""The runs of a stage: what they are, how they are numbered, and how each ends."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workspaces import RECORD_ONLY, Workspace

from records import ending, new_run, recorded
from runrecord import start_run
from runrecord.errors import UserError
from runrecord.record.reader import Record, files_in, view
from runrecord.record.writer import RecordWriter
from runrecord.run.start import PRUNED, WHY, rank_in
from runrecord.store import runs as store_runs
from runrecord.store.runs import run_dir

AFTER: tuple[Callable[[Any], object], ...] = (
    lambda run: run.log({"loss": 1.0}),
    lambda run: run.tag(a="b"),
    lambda run: run.observe({"speed": 1.0}),
    lambda run: run.text("a", "b"),
    lambda run: run.image("a", np.zeros((2, 2), np.uint8)),
    lambda run: run.artifact("params.yaml"),
    lambda run: run.model("params.yaml"),
    lambda run: run.evaluation("m", "params.yaml", {"a": 1.0}),
)


def test_a_run_is_sent_to_no_process_and_gives_no_tag_of_the_engines(here: Path) -> None:
    with start_run("train") as run:
        with pytest.raises(UserError, match="stays in the process that started it"):
            pickle.dumps(run)
        for name in ("git.commit", "python", "study.pruned"):
            with pytest.raises(UserError, match=f"the tag '{name}' is the engine's"):
                run.tag(**{name: "mine"})
    assert view(Record(files_in(run_dir(here, run.id)))).start.tags["python"] != "mine"
    with pytest.raises(SystemExit, match="2"), start_run("train", tags={"env.TZ": "UTC"}):
        pass


@pytest.mark.parametrize("how", ["FINISHED", "FAILED", "KILLED"])
def test_nothing_is_logged_after_a_run_has_ended(here: Path, how: str) -> None:
    errors = {"FAILED": ValueError(), "KILLED": KeyboardInterrupt()}
    with suppress(ValueError, SystemExit), start_run("train") as run:
        run.log({"loss": 1.0})
        if how in errors:
            raise errors[how]
    files = files_in(run_dir(here, run.id))
    before = {name: path.read_bytes() for name, path in files.items()}
    for call in AFTER:
        with pytest.raises(UserError, match="the run has ended"):
            call(run)
    assert files_in(run_dir(here, run.id)) == files
    assert {name: path.read_bytes() for name, path in files.items()} == before
    assert ending(Record(files)) == how


@pytest.mark.parametrize(
    ("leave", "status"),
    [
        *(([], "FINISHED"), ([0], "FINISHED"), ([None], "FINISHED")),
        *(([1], "FAILED"), ([0.0], "FAILED"), (["a sentence"], "FAILED")),
    ],
)
def test_a_block_that_is_left_by_an_exit_ends_as_the_exit_status_says(
    here: Path, leave: list[Any], status: str
) -> None:
    def left_by_an_exit() -> None:
        with start_run("train") as run:
            run.log({"loss": 1.0})
            sys.exit(*leave)

    with pytest.raises(SystemExit) as left:
        left_by_an_exit()
    assert left.value.code == (leave[0] if leave else None)
    assert [ending(record) for record in recorded(here)] == [status]
    assert (here / "records/train/run.json").exists() == (status == "FINISHED")


def test_an_error_that_cannot_tell_its_text_is_on_record(here: Path) -> None:
    """Nor one that names a file whose name is no text."""

    class Silent(Exception):
        def __str__(self) -> str:
            raise ValueError

    for error in (Silent(), ValueError("no such data: \udcff.bin")):
        with suppress(Silent, ValueError), start_run("train"):
            raise error
    ends = [record.end for record in recorded(here)]
    told = [(end.status, end.message.partition(": ")[::2]) for end in ends if end]
    assert told == [
        ("FAILED", ("Silent", "<exception str() failed>")),
        ("FAILED", ("ValueError", "no such data: ?.bin")),
    ]


def test_a_script_may_remove_the_folder_that_it_is_in(here: Path, tmp_path: Path) -> None:
    with start_run("train"):
        (tmp_path / "other").mkdir()
        os.chdir(tmp_path / "other")
        (tmp_path / "other").rmdir()
    assert [ending(record) for record in recorded(here)] == ["FINISHED"]


def no_account(patch: pytest.MonkeyPatch, _here: Path) -> None:
    """As a container has it that was started with `--user 12345`."""
    patch.setattr(os, "getuid", lambda: 12345)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME", "XDG_CONFIG_HOME"):
        patch.delenv(name, raising=False)


def no_place_for_notes(patch: pytest.MonkeyPatch, here: Path) -> None:
    patch.setenv("DVC_SITE_CACHE_DIR", str(here / "params.yaml/cache"))


@pytest.mark.parametrize(
    ("without", "status", "said"),
    [
        (no_account, 2, "set USER and HOME"),
        (no_place_for_notes, 1, "params.yaml/cache"),
    ],
)
def test_what_dvc_lacks_to_work_is_one_sentence_before_any_work(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without: Callable[[pytest.MonkeyPatch, Path], None],
    status: int,
    said: str,
) -> None:
    without(monkeypatch, here)
    with pytest.raises(SystemExit) as ended, start_run("train"):
        pytest.fail("its work began")
    assert ended.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.slow
@pytest.mark.needs("root-mounts")
def test_a_run_is_recorded_where_proc_is_not_mounted(here: Path) -> None:
    script = "import runrecord\nwith runrecord.start_run('train') as run: run.log({'loss': 1.0})"
    without = 'mount -t tmpfs none /proc && exec "$0" -c "$1"'
    command = ("unshare", "--mount", "sh", "-c", without, sys.executable, script)
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert [ending(record) for record in recorded(here)] == ["FINISHED"]


def test_a_record_that_cannot_be_sealed_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "records").write_text("a file in the place of the folder")
    with pytest.raises(SystemExit) as ended, start_run("train") as run:
        run.log({"loss": 1.0})
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {here / 'records'}")
    assert [ending(record) for record in recorded(here)] == ["FAILED"]


def test_several_runs_of_a_stage_are_numbered_and_the_sealed_one_is_named(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for fold in range(3):
        with start_run("train") as run:
            run.log({"fold": float(fold)})
    first, second, third = recorded(here)
    assert [record.start.number for record in (first, second, third)] == [1, 2, 3]
    said = capfd.readouterr().err.splitlines()
    notes = [line for line in said if line.startswith("note: records/train")]
    assert notes == [
        f"note: records/train holds {one.start.id} now, run {number} of its stage; "
        "the others are in the run store alone."
        for number, one in ((2, second), (3, third))
    ]
    assert Record(files_in(here / "records/train")).start.id == third.start.id
    with start_run("other") as run:
        pass
    assert Record(files_in(run_dir(here, run.id))).start.number == 1, "of its own stage"


def test_a_thread_that_logs_while_its_run_ends_is_refused_before_the_record_is_sealed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal, refused = RecordWriter.seal, list[str]()

    def sealed(writer: RecordWriter, *given: Any) -> None:
        for when in ("before", "after"):
            try:
                run.tag(logged=when)
            except UserError:
                refused.append(when)
            if when == "before":
                seal(writer, *given)

    monkeypatch.setattr(RecordWriter, "seal", sealed)
    with start_run("train") as run:
        run.log({"loss": 1.0})
    assert refused == ["before", "after"]
    kept, own = (
        folder / "events.jsonl" for folder in (run_dir(here, run.id), here / "records/train")
    )
    assert kept.read_bytes() == own.read_bytes()


def test_why_a_trial_was_stopped_is_on_record_also_if_it_was_about_to_end(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_given: Any) -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("runrecord.run.start.hash_outs", stopped)
    monkeypatch.setenv(WHY, str(here / "why"))
    (here / "why").write_text("worse than most")
    with suppress(KeyboardInterrupt, SystemExit), start_run("train") as run:
        pass
    (record,) = recorded(here)
    assert (ending(record), run.tags[PRUNED]) == ("KILLED", "worse than most")


def test_runs_of_other_processes_are_not_counted(here: Path) -> None:
    new_run(run_dir(here, "before"), id="before", stage="train")
    place = run_dir(here, "before") / ".place"
    place.write_text(json.dumps(store_runs.here() | {"process": "1"}))
    with start_run("train") as run:
        pass
    assert Record(files_in(run_dir(here, run.id))).start.number == 1


def test_a_record_from_before_runs_were_numbered_is_the_first(tmp_path: Path) -> None:
    new_run(tmp_path / "record")
    start = json.loads((tmp_path / "record/run.json").read_text())
    assert start.pop("number") == 1
    (tmp_path / "record/run.json").write_text(json.dumps(start))
    assert Record(files_in(tmp_path / "record")).start.number == 1


RANKS = """
import os
import sys
from pathlib import Path
import numpy as np
from runrecord import start_run

class Walk:
    place = np.zeros(1)

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, arrays):
        self.place = arrays["place"]

walk = Walk()
with start_run("train") as run:
    for epoch in run.epochs(4, walk):
        if len(sys.argv) > 1:
            print(f"it computes epoch {epoch}\\nbegun in it", flush=True)
            sys.stdin.readline()
            sys.argv.pop()
        walk.place = walk.place + epoch
        own = sum(int(os.environ.get(name, 0)) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
        run.log({"place": float(walk.place[0]) + own}, within={"place": [1.0, 2.0]})
        run.text("note", "a text")
        run.artifact("params.yaml")
        if epoch == 3 and Path("stop").exists():
            raise KeyboardInterrupt
    run.evaluation("walk", "params.yaml", {"place": 1.0})
    try:
        run.log({"a": "no number"})
    except Exception as error:
        print("refused:", type(error).__name__)
"""


def all_at_once(folder: Path, environments: Sequence[dict[str, str]]) -> list[str]:
    """What processes print that are all in their run before one goes on; all end well."""
    workspace = Workspace(folder)
    said = []
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                workspace.start("python", "ranks.py", "wait", **RECORD_ONLY, **environment)
            )
            for environment in environments
        ]
        for process in processes:
            assert process.stdout is not None
            lines = takewhile(lambda line: not line.startswith("begun in"), process.stdout)
            said.append("".join(lines))
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for number, process in enumerate(processes):
            output, _ = process.communicate()
            said[number] += output
            assert process.returncode == 0, said[number]
    return said


def test_of_four_ranks_the_first_records_and_all_go_on_from_its_checkpoint(here: Path) -> None:
    (here / "ranks.py").write_text(RANKS)
    (here / "stop").touch()
    Workspace(here).run("python", "ranks.py", status=130, environment=RECORD_ONLY, RANK="0")
    (here / "stop").unlink()
    kept = here.glob(".runrecord/checkpoints/*/*/0*")
    assert sorted(path.stem for path in kept) == ["000001", "000002"]
    variables = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "RANK")
    said = all_at_once(here, [{name: str(n)} for n, name in enumerate(variables)])
    for number, text in enumerate(said):
        assert "it computes epoch 3\n" in text
        assert text.count("records nothing, rank 0 does; set RANK=0") == (number > 0)
        assert "refused: UserError" in text
        assert "computed again" not in text, "a rank's own numbers may differ from the first's"
    (record,) = recorded(here)
    assert ending(record) == "FINISHED"
    assert list(view(record).series["place"]) == [1, 2, 3, 4]
    assert Record(files_in(here / "records/train")).start.id == record.start.id


def test_four_processes_without_ranks_all_seal_and_the_last_one_stays(here: Path) -> None:
    (here / "ranks.py").write_text(RANKS)
    all_at_once(here, [{}] * 4)
    found = recorded(here)
    assert [ending(record) for record in found] == ["FINISHED"] * 4
    sealed = Record(files_in(here / "records/train"))
    assert sealed.start.id in {record.start.id for record in found}
    assert [*sealed.events()] == [*Record(files_in(run_dir(here, sealed.start.id))).events()]
    assert sealed.damaged == {}
    assert [path.name for path in (here / "records").iterdir()] == ["train"]


def test_a_trial_of_a_study_is_no_rank_of_slurms() -> None:
    assert rank_in({"SLURM_PROCID": "3"}) == 3
    assert rank_in({"SLURM_PROCID": "3", "RUNRECORD_WHY": "/why"}) == 0
    assert rank_in({"SLURM_PROCID": "3", "RANK": "0"}) == 0
    assert rank_in({"LOCAL_RANK": "2"}) == 2
    assert rank_in({"RANK": "", "SLURM_PROCID": "x"}) == 0
    assert rank_in({}) == 0
