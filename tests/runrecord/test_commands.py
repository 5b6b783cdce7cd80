"""`runrecord runs`, `show` and `which`: which run was that, and what made it?"""

from helpers import Workspace, spool


def test_runs_lists_every_run_once_the_oldest_first(built: Workspace) -> None:
    output = built.run("runrecord", "runs")
    names = [folder.name for folder in spool(built)]
    listed = [name for line in output.splitlines() for name in names if name in line]
    assert listed == sorted(names, key=lambda name: name.split("-")[-3:])
    assert output.count("FINISHED") == len(names) == 3
    commit = built.run("git", "rev-list", "--max-parents=0", "HEAD")[:10]
    assert output.count(commit) == 3


def test_show_tells_all_of_one_run(built: Workspace) -> None:
    output = built.run("runrecord", "show", "HEAD:vae")
    for wanted in ("train-vae", "FINISHED", "latent_dim", "Test/Total Loss", "models/vae.safe"):
        assert wanted in output
    output = built.run("runrecord", "show", "HEAD", status=2)
    assert "HEAD: has 3 records (" in output
    assert "name one: HEAD:" in output


def test_which_names_the_run_of_a_model_plot_and_metrics_file(workspace: Workspace) -> None:
    made = {
        "models/vae.safetensors": "train-vae-",
        "metrics/ae.json": "train-ae-",
        "metrics/ae_history.csv": "train-ae-",
        "metrics/pictures/denoising.png": "evaluate-",
        "metrics/pictures": "evaluate-",
        "metrics/evaluation.json": "evaluate-",
    }
    for file, run in made.items():
        assert f"{file}: made by {run}" in workspace.run("runrecord", "which", file)


def test_which_looks_into_dvcs_cache_and_says_what_nobody_made(workspace: Workspace) -> None:
    copy = workspace.path / "of a friend.safetensors"
    copy.write_bytes(workspace.read("models/vae.safetensors"))
    workspace.run("rm", "-r", "records")
    assert ": made by train-vae-" in workspace.run("runrecord", "which", copy.name)
    copy.write_bytes(b"other")
    assert "no record here, in DVC's cache or its remote tells of a run" in workspace.run(
        "runrecord", "which", copy.name, status=1
    )
    assert "No such file" in workspace.run("runrecord", "which", "nothing", status=1)


def test_the_old_command_says_the_new_one(built: Workspace) -> None:
    output = built.run("generative", "verify", "HEAD", "--yes", status=1)
    assert output == "error: the command is now: runrecord verify HEAD --yes\n"
    built.run("generative", "check")
