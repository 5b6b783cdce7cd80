"""Which run a revision means where its own cannot be had."""

from pathlib import Path

from helpers import RECORD_ONLY, Workspace, spool


def test_somebody_elses_results_mean_ones_own_run_of_the_same(
    built_toy: Workspace, tmp_path: Path
) -> None:
    built_toy.run("git", "clone", "--quiet", str(built_toy.path), str(tmp_path / "clone"))
    clone = Workspace(tmp_path / "clone")
    output = clone.run("runrecord", "show", "HEAD:train", status=2)
    assert "error: HEAD:train: no record of such a run" in output

    clone.run("dvc", "repro", environment=RECORD_ONLY)
    own = next(folder.name for folder in spool(clone) if folder.name.startswith("train-"))
    output = clone.run("runrecord", "show", "HEAD:train")
    assert f"cannot be had here; taken is {own}, this machine's run of the same command" in output
    assert "HEAD:train" not in clone.run("runrecord", "show", own)

    clone.run("git", "commit", "--quiet", "--all", "--message=results of this machine")
    assert "taken is" not in clone.run("runrecord", "show", "HEAD:train")
    clone.set_params(train__lr=3)
    clone.run("dvc", "repro", environment=RECORD_ONLY)
    assert own in clone.run("runrecord", "show", "HEAD:train"), "other params are another run"


def test_a_name_begins_with_what_tells_the_run_apart(toy: Workspace) -> None:
    toy.run("dvc", "repro", "--force", "train", environment=RECORD_ONLY)
    toy.set_params(train__lr=0.25)
    toy.run("dvc", "repro", "train", environment=RECORD_ONLY)
    toy.run("git", "checkout", "--quiet", ".")
    command = ("dvc", "exp", "run", "--temp", "--name", "longer", "-S", "train.epochs=9", "train")
    toy.run(*command, environment=RECORD_ONLY)
    names = [folder.name[:-22] for folder in spool(toy)]
    assert names == ["train-", "lr-0.25-train-", "longer-train-"]
