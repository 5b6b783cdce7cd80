"""Which run a name means: experiments, damaged files in history, somebody else's results."""

import os
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.scm import RevError, resolve_rev
from workspaces import IDENTITY, new_repository

from records import end_run, new_run
from runrecord.cli.runs import find_records
from runrecord.dvc.cache import known_records, records_at
from runrecord.errors import UserError
from runrecord.git.commands import git
from runrecord.run.start import start_run
from runrecord.store.runs import run_dir

Said = pytest.CaptureFixture[str]
MD5 = "0123456789abcdef0123456789abcdef"
OUTS = "[{path: records/%s, md5: " + MD5 + ".dir}]"
LOCK = "schema: '2.0'\nstages: {train: {cmd: a, outs: " + OUTS + "}}\n"


def commit_lock(folder: Path, lock: bytes) -> str:
    (folder / "dvc.lock").write_bytes(lock)
    git(folder, "add", "dvc.lock")
    git(folder, "commit", "--quiet", "--message=lock", environment=IDENTITY)
    return git(folder, "rev-parse", "HEAD").decode().strip()


def commits_with(folder: Path, *names: str) -> list[str]:
    """Commits whose dvc.lock names a record each."""
    return [commit_lock(folder, (LOCK % name).encode()) for name in names]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


@pytest.mark.parametrize(
    ("baselines", "branch", "wanted"),
    [
        (("first",), False, "of-first"),
        (("first", "head"), False, "of-head"),
        (("head", "first"), True, "branch"),
        (("first", "second"), False, None),
    ],
)
def test_a_name_of_several_experiments_is_taken_as_dvc_takes_it(
    repository: Path, baselines: tuple[str, ...], branch: bool, wanted: str | None
) -> None:
    first, second, head = (commit_lock(repository, LOCK.encode() + b"#" * n) for n in (1, 2, 3))
    at = {"first": first, "second": second, "head": head}
    made = {}
    for name in ("of-first", "of-second", "of-head", "branch"):
        (made[name],) = commits_with(repository, name)
    git(repository, "reset", "--quiet", "--hard", head)
    refs = [f"refs/exps/{at[name][:2]}/{at[name][2:]}/odd-name" for name in baselines]
    for ref, name in zip(refs, baselines, strict=True):
        git(repository, "update-ref", ref, made[f"of-{name}"])
    if branch:
        git(repository, "branch", "odd-name", made["branch"])
    with Repo(str(repository)) as repo:
        if wanted is None:
            with pytest.raises(RevError, match="ambiguous"):
                resolve_rev(repo.scm, "odd-name")
        else:
            assert resolve_rev(repo.scm, "odd-name") == made[wanted]
    if wanted is not None:
        assert list(records_at(repository, "odd-name")) == [f"records/{wanted}"]
        return
    with pytest.raises(UserError, match="odd-name: 2 experiments have this name") as refusal:
        records_at(repository, "odd-name")
    assert all(ref in str(refusal.value) for ref in refs), "it says how to name one"
    for ref, name in zip(refs, baselines, strict=True):
        assert list(records_at(repository, ref)) == [f"records/of-{name}"]


OLD = "DVC of today writes no such thing"
DAMAGED = {
    b"<<<<<<< HEAD\nschema: '2.0'\n=======\n>>>>>>> other\n": "it holds conflict markers",
    b"stages: [": "it is no YAML",
    b"\xff\xfe\x00\xd8": "it is no YAML",
    b"a: !!python/object/apply:os.system [exit]\n": "it is no YAML",
    b"schema: '2.0'\nwhen: 2026-99-99\n": "it is no YAML",
    b"[\n" * 4_000: "it is no YAML",
    b"- 1\n- 2\n": OLD,
    b"train:\n  cmd: a\n  outs:\n  - path: x\n": OLD,
    b"schema: '2.0'\nstages: {a: null}\n": OLD,
    b"schema: '2.0'\nstages: {a: {cmd: x, outs: [{md5: x}]}}\n": OLD,
    b"schema: '2.0'\nstages: {a: &a {outs: [*a]}}\n": OLD,
    b"#" * (2**23 + 1): "it has 8388609 bytes",
}


def test_a_damaged_lock_file_in_history_is_named_in_a_line_and_passed_over(
    repository: Path, capsys: Said
) -> None:
    commits = {commit_lock(repository, content): why for content, why in DAMAGED.items()}
    commits_with(repository, "good")
    labels = [label for label, _ in known_records(repository)]
    (label,) = labels
    assert label.startswith("records/good of ")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(DAMAGED)
    assert {line.rpartition(": ")[2] for line in lines} == {
        f"{why}; passed over" for why in commits.values()
    }
    with pytest.raises(UserError, match="no-such-run: no record of such a run"):
        find_records(repository, "no-such-run")
    capsys.readouterr()
    for commit, why in commits.items():
        assert records_at(repository, commit) == {}
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("a dvc.lock in Git (")
        assert line.endswith(f"): {why}; passed over")


def test_a_record_that_this_user_may_not_read_is_not_called_missing(repository: Path) -> None:
    folder = run_dir(repository, "run-1")
    new_run(folder)
    folder.chmod(0)
    process = os.fork()
    if not process:
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            find_records(repository, folder.name)
        except UserError as error:
            said = f"{folder}: its record cannot be read: Permission denied."
            os._exit(str(error) != said)
        os._exit(2)
    _, status = os.waitpid(process, 0)
    folder.chmod(0o755)
    assert os.waitstatus_to_exitcode(status) == 0


def test_so_is_that_of_the_working_tree(repository: Path, capsys: Said) -> None:
    (repository / "dvc.lock").write_bytes(next(iter(DAMAGED)))
    assert list(known_records(repository)) == []
    said = "dvc.lock of the working tree: it holds conflict markers; passed over\n"
    assert capsys.readouterr().err == said


def test_a_hash_that_is_none_leads_nowhere(repository: Path) -> None:
    lock = (LOCK % "train").replace(f"{MD5}.dir", "../../../../etc/passwd")
    commit = commit_lock(repository, lock.encode())
    assert list(known_records(repository)) == []
    assert records_at(repository, commit) == {}


def test_a_damaged_listing_in_the_cache_is_a_record_that_is_not_there(repository: Path) -> None:
    (commit,) = commits_with(repository, "train")
    listing = repository / f".dvc/cache/files/md5/{MD5[:2]}/{MD5[2:]}.dir"
    listing.parent.mkdir(parents=True)
    for content in (b"", b"{}", b"[1]", b'[{"relpath": "run.json", "md5": "../../run"}]'):
        listing.write_bytes(content)
        assert records_at(repository, commit) == {"records/train": None}


def test_a_damaged_record_hides_no_other(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.chdir(repository)
    for name in ("a-damaged", "sound"):
        new_run(repository / "records" / name, id=f"id-of-{name}")
        end_run(repository / "records" / name)
    (repository / "records/a-damaged/run.json").write_text("none")
    (found,) = find_records(repository, "id-of-sound")
    assert found.start.id == "id-of-sound"
    assert "records/a-damaged" in capsys.readouterr().err


def test_a_name_begins_with_what_tells_the_run_apart(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "model.bin").touch()
    names = []
    for rate, experiment in ((1, ""), (2, ""), (2, "longer")):
        (here / "params.yaml").write_text(f"lr: {rate}\n")
        monkeypatch.setenv("DVC_EXP_NAME", experiment)
        with start_run("train") as run:
            names.append(run.id[:-22])
    assert names == ["train-", "lr-2-train-", "longer-train-"]
