"""Whatever a terminal can show, and whatever a person types: no command ends in a traceback."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from workspaces import new_repository

from records import end_run, new_run
from runrecord.cli import main, parser
from runrecord.store.runs import run_dir

ODD = "그림 ✓ ñ 🙂"
COMMANDS = (
    (0, "runs"),
    (0, "show", "one"),
    (2, "show", f"no {ODD}"),
    (0, "which", "model.bin"),
    (1, "which", f"{ODD}.bin"),
    (0, "compare", "one", "two"),
    (0, "compare", "one", "two", "--json"),
    (2, "compare", "one", ODD),
    (2, "verify", "one"),
    (2, "verify", f"HEAD:{ODD}"),
    (0, "report", "one", "two"),
    (2, "report", ODD),
    (0, "gc", "--keep", "1"),
)
OF_MLFLOW = ((0, "sync"), (0, "reap"), (1, "doctor"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository, the current folder, whose runs have names that not all terminals have."""
    folder = new_repository(tmp_path / "repository")
    monkeypatch.chdir(folder)
    for name in ("one", "two"):
        run = new_run(
            run_dir(folder, name),
            **{"id": name, "params": {ODD: ODD, "name": name}, "tags": {"note": ODD}},
        )
        run.log({f"Loss/{ODD}": 0.125 if name == "one" else 0.25}, step=1)
        run.text(ODD, ODD)
        run.image(ODD, np.zeros((2, 2), np.uint8))
        (folder / "model.bin").write_bytes(name.encode())
        run.model("model.bin")
        end_run(run_dir(folder, name))
    shutil.copyfile("model.bin", f"{ODD}.bin")
    (folder / f"{ODD}.bin").write_bytes(b"nobody's")
    return folder


def said(
    encoding: str, folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, *arguments: str
) -> str:
    """What a command prints on a terminal of that encoding."""
    monkeypatch.setattr(sys, "argv", ["runrecord", *arguments])
    with (folder / "printed").open("w", encoding=encoding) as printed:
        monkeypatch.setattr(sys, "stdout", printed)
        monkeypatch.setattr(sys, "stderr", printed)
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
    text = (folder / "printed").read_bytes().decode(encoding)
    assert ended.value.code == status, text
    assert "Traceback" not in text
    assert text.strip()
    return text


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("encoding", ["cp949", "ascii"])
def test_a_command_prints_what_the_terminal_has_and_a_question_mark_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    texts = [said(encoding, tmp_path, monkeypatch, *command) for command in COMMANDS]
    shown = ODD.encode(encoding, "replace").decode(encoding)
    assert sum(shown in text for text in texts) >= 6


def test_so_do_those_that_ask_mlflow(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    shutil.copyfile(empty_store, root / "mlflow.db")
    for command in OF_MLFLOW:
        text = said("cp949", tmp_path, monkeypatch, *command)
    assert "? run store" in text or "✓ run store".encode("cp949", "replace").decode("cp949") in text


@pytest.mark.parametrize("viewer", ["mlflow", "tensorboard"])
def test_any_port_is_taken_and_what_is_none_is_refused_in_a_sentence(
    viewer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for port in (1, 80, 65500, 65535):
        assert parser().parse_args([viewer, "--port", str(port)]).port == port
    for text in ("0", "65536", "-1", "x", "", "1.5", "5_000", "99999999999999999999", "²"):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args([viewer, f"--port={text}"])
        assert ended.value.code == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.endswith(f"it is '{text}'; a port is a number from 1 to 65535")
