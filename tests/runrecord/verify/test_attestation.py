"""`runrecord verify --attest`: the verdict as other tools read it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from workspaces import IDENTICAL, RECORD_ONLY, Workspace, verify

from records import new_run
from runrecord.cli.verify import _statement
from runrecord.files import sha256
from runrecord.record.reader import Record, files_in


def read_statement(found: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """What was verified, and the SHA-256 of each subject by its name.

    The form is in-toto's: github.com/in-toto/attestation, spec/v1/statement.md,
    spec/v1/digest_set.md and spec/predicates/svr.md, whose times are those of field_types.md.
    """
    subjects, predicate = found.pop("subject"), found.pop("predicate")
    assert found == {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": "https://in-toto.io/attestation/svr/v0.1",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", predicate.pop("timeCreated"))
    proved: list[str] = predicate.pop("properties")
    assert predicate == {"verifier": {"id": "pkg:generic/runrecord/verify@1"}}
    digests = {one.pop("name"): one.pop("digest") for one in subjects}
    assert subjects == [{}] * len(digests), "no name is twice, and nothing else is said"
    assert all(re.fullmatch(r"[0-9a-f]{64}", one["sha256"]) for one in digests.values())
    return proved, {name: one["sha256"] for name, one in digests.items()}


def statement_in(file: Path) -> tuple[list[str], dict[str, str]]:
    return read_statement(json.loads(file.read_bytes()))


def test_what_a_run_wrote_is_attested_and_no_longer_once_it_differs(toy: Workspace) -> None:
    file, record = toy.path / "run.intoto.json", toy.path / "records" / "train"
    assert IDENTICAL in verify(toy, "records/train", "--attest", file.name)
    proved, subjects = statement_in(file)
    assert proved == ["RUNRECORD_BIT_IDENTICAL"]
    run = Record(files_in(record)).start.id
    for name in ("model.bin", "metrics.json"):
        assert subjects[name] == sha256(toy.path / name)
    files = {name: path for name, path in files_in(record).items() if name != "lock"}
    assert {name: sha256(path) for name, path in files.items()} == {
        name.removeprefix(f"{run}/"): digest
        for name, digest in subjects.items()
        if name.startswith(f"{run}/")
    }

    other = toy.path.parent / "other"
    shutil.copytree(record, other)
    (picture, *_) = (other / "images").iterdir()
    picture.chmod(0o644)
    picture.write_bytes(b"another")
    verify(toy, str(other), "--attest", file.name, status=1)
    assert statement_in(file) == ([], subjects), "of the same run, nothing is proved"


def test_what_was_not_compared_is_not_attested(toy: Workspace) -> None:
    (toy.path / "dvc.yaml").write_text(
        "stages:\n  count:\n    cmd: runrecord exec -- sh -c 'echo said; wc -l < numbers.txt > n'\n"
        "    deps: [numbers.txt]\n    outs: [n, records/count]\n"
    )
    toy.run("dvc", "repro", environment=RECORD_ONLY)
    toy.commit("count")
    verify(toy, "records/count", "--attest", "count.json", "--yes")
    proved, subjects = statement_in(toy.path / "count.json")
    assert proved == ["RUNRECORD_BIT_IDENTICAL"]
    assert {name.rpartition("/")[2] for name in subjects} == {"run.json", "events.jsonl", "n"}


def test_of_a_run_that_cannot_be_rebuilt_nothing_is_proved(toy: Workspace) -> None:
    new_run(toy.path.parent / "stopped", id="stopped").text("note", "as far as it came")
    file = toy.path / "stopped.json"
    file.write_text("of before")
    verify(toy, "../stopped", "--attest", file.name, status=2)
    proved, subjects = statement_in(file)
    assert proved == []
    assert [name.partition("-")[0] for name in subjects] == [
        *("stopped/run.json", "stopped/events.jsonl", "stopped/texts/note")
    ]


def test_a_tolerance_is_named_and_several_runs_are_not_one_statement(toy: Workspace) -> None:
    record = Record(files_in(toy.path / "records" / "train"))
    proved, _ = read_statement(_statement(record, "equal within tolerance", 1e-06))
    assert proved == ["RUNRECORD_EQUAL_WITHIN_1e-06"]
    said = toy.run("runrecord", "verify", "HEAD", "--attest", "all.json", status=2)
    assert "HEAD: is 2 runs; --attest takes one, so name one." in said
    assert not (toy.path / "all.json").exists()
