"""`runrecord report`: one page that needs nothing else, and shows text as text."""

import json
import re
import shutil
from pathlib import Path

from helpers import Workspace, needs_chromium, spool
from playwright.sync_api import Page

OFF = {"RUNRECORD_SINKS": "off"}


def report(workspace: Workspace, *names: str) -> str:
    workspace.run("runrecord", "report", *names)
    return workspace.read("report.html").decode()


def cells(html: str, name: str) -> list[tuple[str, bool]]:
    """A row's values, and whether each is marked as the best."""
    (row,) = re.findall(rf"<tr><th>{re.escape(name)}</th>(.*?)</tr>", html)
    found = re.findall(r'<td( class="best")?>(.*?)</td>', row)
    return [(value, bool(best)) for best, value in found]


def test_without_names_it_shows_the_workspace(workspace: Workspace) -> None:
    html = report(workspace)
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["train-ae", "train-vae", "evaluate"]
    figures = json.loads(workspace.read("metrics/evaluation.json"))
    assert cells(html, "Eval/Likelihood/ELBO") == [
        (f"{figures['vae']['Likelihood/ELBO']:.5g}", False)
    ]
    assert cells(html, "vae/Likelihood/ELBO") == cells(html, "Eval/Likelihood/ELBO")
    assert cells(html, "hidden_dim") == [("32", False)]
    assert 'alt="Total loss by epoch"' in html
    titles = re.findall(r"<h3>(.*?)</h3>", html)
    assert "vae_samples" in titles
    assert "Eval/samples" not in titles, "the evaluation shows it"
    assert not re.search(r"https?:", html)


def test_runs_side_by_side_with_what_differs_first_and_the_best_marked(
    workspace: Workspace,
) -> None:
    workspace.set_params(vae__latent_dim=2)
    workspace.run("python", "stages/train_vae.py", environment=OFF)
    workspace.run("python", "stages/evaluate.py", environment=OFF)
    html = report(workspace, "HEAD:vae", "records/vae", "HEAD:evaluation", "records/evaluation")
    before, _, after = html.partition("<details>")
    assert cells(before, "latent_dim") == [("8", False), ("2", False)]
    assert "hidden_dim" not in before
    assert "hidden_dim" in after
    (first, first_best), (second, second_best) = cells(html, "vae/Likelihood/ELBO")
    assert (first_best, second_best) == (float(first) > float(second), float(second) > float(first))
    assert not any(best for _, best in cells(html, "vae/Likelihood/KL"))
    assert not any(best for _, best in cells(html, "Test/Total Loss"))
    assert html.count('alt="Total loss by epoch"') == 1
    html = report(workspace, "records/vae", "HEAD:vae")
    assert html.count('alt="Eval/samples"') == 1, "one model's evaluation is at hand"
    assert html.count('alt="Eval/plane"') == 1
    assert "Eval/extremes" in html
    assert "interpolation" in html


@needs_chromium
def test_a_browser_opens_it_from_the_file_alone_and_runs_nothing(
    workspace: Workspace, page: Page, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    shutil.copytree(workspace.path / "records" / "vae", record)
    start = json.loads((record / "run.json").read_text())
    start["params"]["optimizer"] = "<script>document.title = 'broken'</script><b>bold</b>"
    start["tags"]["dvc.experiment"] = "<img src=x onerror=alert(1)>"
    (record / "run.json").write_text(json.dumps(start))
    report(workspace, str(record), "HEAD:ae")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    address = (workspace.path / "report.html").as_uri()
    page.goto(address)
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert page.title() == "Runs side by side"
    assert "<script>document.title = 'broken'</script><b>bold</b>" in page.inner_text("body")
    assert page.locator("script").count() == page.locator("td b").count() == 0
    loaded = page.evaluate("[...document.images].map((image) => image.naturalWidth > 0)")
    assert len(loaded) >= 3
    assert all(loaded)


def test_what_cannot_be_shown_is_one_sentence(workspace: Workspace) -> None:
    output = workspace.run("runrecord", "report", "nothing", status=2)
    assert output.startswith("error: nothing: no record of such a run is in the run store, ")
    output = workspace.run("runrecord", "report", "--output", "/proc/report.html", status=1)
    assert output.startswith("error: /proc/report.html: ")
    for picture in (workspace.path / "records/vae/images").rglob("*.png"):
        picture.unlink()
        picture.write_bytes(b"no picture")
    output = workspace.run("runrecord", "report", status=2)
    assert "its record cannot be used: " in output
    assert len(output.splitlines()) == 1
    shutil.rmtree(workspace.path / "records")
    output = workspace.run("runrecord", "report", status=2)
    assert output == "error: records/: holds no record yet; run 'dvc repro', or name runs.\n"
    assert spool(workspace) == []


def test_an_evaluation_that_is_damaged_is_nobody_elses_trouble(workspace: Workspace) -> None:
    damaged = workspace.path / ".runrecord" / "runs" / "evaluate-1"
    shutil.copytree(workspace.path / "records" / "evaluation", damaged)
    for picture in (damaged / "images").rglob("*.png"):
        picture.unlink()
        picture.write_bytes(b"no picture")
    assert cells(report(workspace, "records/vae"), "Eval/Likelihood/ELBO")
