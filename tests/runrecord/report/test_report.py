"""`runrecord report`: one page that needs nothing else, and shows text as text."""

import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from markdown_it import MarkdownIt
from playwright.sync_api import Page

from records import end_run, new_run
from runrecord import Dataset
from runrecord.cli.pages import report
from runrecord.errors import UserError
from runrecord.project import Project
from runrecord.record.reader import RunView, view
from runrecord.report.page import render
from runrecord.store.runs import run_dir

PROJECT = Project(better={"Accuracy": "higher", "MSE": "lower"}, curves=("Loss",))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository without Git, the current folder."""
    folder = tmp_path / "repository"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\nno_scm = true\n")
    monkeypatch.chdir(folder)
    return folder


def train(folder: Path, losses: tuple[float, ...] = (2.0, 1.0), **start: Any) -> RunView:
    """A training, its model written by its id."""
    run = new_run(folder, **({"id": folder.name, "params": {"lr": 0.1, "z": 8}} | start))
    for epoch, loss in enumerate(losses, start=1):
        run.log({"Loss": loss}, step=epoch)
        run.image("samples", np.full((2, 2), epoch, np.uint8), step=epoch)
    model = folder.parent / f"{folder.name}.bin"
    model.write_bytes(run.id.encode())
    run.model(model, "vae")
    return view(end_run(folder))


def evaluate(folder: Path, model: Path, accuracy: float = 0.5, time: int = 5) -> RunView:
    """An evaluation of a model's file."""
    run = new_run(folder, id=folder.name, stage="evaluate", time=time)
    run.image("vae_plane", np.zeros((2, 2), np.uint8))
    run.image("overview", np.zeros((2, 2), np.uint8))
    run.evaluation("vae", model, {"Accuracy": accuracy, "MSE": 0.25, "Other": 1.0})
    return view(end_run(folder))


def trained(root: Path, **accuracies: float) -> tuple[list[RunView], list[RunView]]:
    """Trainings of those names, each with another `z`, and their evaluations."""
    runs = [
        train(root / name, params={"lr": 0.1, "z": 8 - 6 * number})
        for number, name in enumerate(accuracies)
    ]
    tests = [evaluate(root / f"of-{n}", root / f"{n}.bin", x) for n, x in accuracies.items()]
    return runs, tests


def cells(html: str, name: str) -> list[tuple[str, bool]]:
    """A row's values, and whether each is marked as the best."""
    (row,) = re.findall(rf"<tr><th>{re.escape(name)}(?: <small>.*?</small>)?</th>(.*?)</tr>", html)
    found = re.findall(r'<td( class="best")?>(.*?)</td>', row)
    return [(value, bool(best)) for best, value in found]


def judged(html: str, name: str) -> tuple[str, ...]:
    """What stands in a row of the main metrics, but for marks."""
    return tuple(re.sub("</?small>", "", value) for value, _ in cells(html, name))


def answers(html: str) -> list[str]:
    """The sentences at the top."""
    return [unescape(text) for text in re.findall(r'<p class="answer">(.*?)</p>', html)]


def pictures(html: str) -> dict[str, int]:
    """How many there are of each title."""
    titles = re.findall(r"<h3>(.*?)</h3>", html)
    return {title: html.count(f'alt="{title}"') for title in titles}


def test_one_run_has_all_its_params_metrics_curves_and_last_pictures(root: Path) -> None:
    html = render([train(root / "a")], [], PROJECT)
    assert re.findall(r"<h2>(.*?)</h2>", html) == ["train"]
    before, _, after = html.partition("<details>")
    assert cells(after, "lr") == [("0.1", False)]
    assert judged(before, "Loss") == ("1",)
    assert before.index('alt="samples"') < before.index("Main metrics")
    assert 'alt="Curves by epoch"' in before
    assert pictures(before) == {"samples": 1}
    assert cells(after, "status") == [("FINISHED", False)]
    assert not re.search(r"https?:", html), "it needs nothing else"


def test_runs_side_by_side_with_what_differs_first_and_the_best_marked(root: Path) -> None:
    runs, tests = trained(root, a=0.5, b=0.75)
    for run, digest in zip(runs, "13", strict=True):
        run.record.start = replace(run.start, deps={"train.py": digest * 64, "data": "2" * 64})
    html = render(runs, tests, PROJECT)
    before, _, after = html.partition("<details>")
    assert cells(before, "z") == [("8", False), ("2", False)]
    assert "<tr><th>lr</th>" not in before
    assert cells(before, "train.py") == [("1" * 10, False), ("3" * 10, False)]
    assert "<tr><th>data</th>" not in html
    assert cells(after, "lr") == [("0.1", False), ("0.1", False)]
    assert cells(before, "Eval/Accuracy")[:2] == [("0.5", False), ("0.75", True)]
    assert judged(before, "Eval/Accuracy") == ("0.5", "0.75", "not known", "0.25")
    assert cells(before, "Eval/MSE")[:2] == [("0.25", False)] * 2, "there is none better"
    assert cells(after, "Eval/Other") == [("1", False), ("1", False)]
    assert not any(best for _, best in cells(after, "Loss")), "nobody says which way is better"
    assert html.count('alt="Curves by epoch"') == 1
    assert (pictures(before), pictures(after)) == ({"samples": 2}, {"Eval/plane": 2})
    assert "<small>higher is better</small>" in before
    (sentence,) = answers(html)
    assert sentence.startswith("The seed-to-seed variation of Accuracy is not known: ")
    # What evaluations say is judged at the runs that trained their models.
    _, _, evaluations = render([*runs, *tests], tests, PROJECT).partition("<h2>evaluate</h2>")
    assert answers(evaluations) == []
    assert judged(evaluations, "vae/Accuracy") == ("0.5", "0.75")


@pytest.mark.parametrize(
    ("accuracy", "ahead", "answer"),
    [
        (0.875, "0.375, 6.0", "Seed-to-seed variation could explain the difference in Accuracy."),
        (0.9, "0.4, 6.4", "b is better in Accuracy, by more than seed-to-seed variation."),
        (0.1, "0.4, 6.4", "a is better in Accuracy, by more than seed-to-seed variation."),
    ],
)
def test_a_difference_is_measured_by_what_seeds_make(
    root: Path, accuracy: float, ahead: str, answer: str
) -> None:
    """The seeds of `a` have 0.4375, 0.5 and 0.5625: a standard deviation of 0.0625, from three."""
    seeds = [("a", 0, 8, 0.5), ("s1", 1, 8, 0.4375), ("s2", 2, 8, 0.5625), ("again", 2, 8, 0.5625)]
    folders = [*seeds, ("b", 0, 2, accuracy), ("s3", 3, 4, 0.0)]
    for name, seed, z, found in folders:
        train(run_dir(root, name), params={"conf.toml:seed": seed, "z": z})
        evaluate(run_dir(root, f"of-{name}"), run_dir(root, f"{name}.bin"), found)
    (root / "pyproject.toml").write_text("[tool.runrecord]\nproject = 'settings:PROJECT'\n")
    (root / "settings.py").write_text(
        "from runrecord import Project\n"
        "PROJECT = Project(headline=('Accuracy',), better={'Accuracy': 'higher'})\n"
    )
    report(["a", "b"], root / "report.html")
    html = (root / "report.html").read_text()
    measured, ahead = "± 0.062 (of 3 runs)", f"{ahead} times the spread"
    assert judged(html, "Eval/Accuracy") == ("0.5", f"{accuracy:.5g}", measured, ahead)
    assert answers(html) == [answer]


def test_where_no_other_seed_was_run_the_projects_spread_counts(root: Path) -> None:
    """It says nothing of runs unlike those that it is of."""
    spread = {"train": {"Eval/Accuracy": 0.01}}
    project = Project(better={"Accuracy": "higher"}, spread=spread)
    dataset = Dataset("mnist", "abc", "data/mnist")
    runs = [train(root / n, params={"z": z}, dataset=dataset) for n, z in (("a", 8), ("b", 2))]
    tests = [evaluate(root / f"of-{n}", root / f"{n}.bin", x) for n, x in (("a", 0.5), ("b", 0.75))]
    html = render(runs, tests, project)
    measured = "± 0.01 (the project&#39;s default params)"
    assert judged(html, "Eval/Accuracy") == ("0.5", "0.75", measured, "0.25, 25 times the spread")
    assert judged(render(runs[:1], tests, project), "Eval/Accuracy") == ("0.5", measured)
    for wanted, known in (
        ({}, True),
        ({"z": 8}, True),
        ({"z": 9}, False),
        ({"z": 8, "data set": "abc"}, True),
        ({"z": 8, "data set": "other"}, False),
    ):
        (answer,) = answers(render(runs, tests, replace(project, spread_of={"train": wanted})))
        better = "b is better in Accuracy, by more than seed-to-seed variation."
        assert (answer == better) is known
        assert ("is not known: run the same with two other seeds" in answer) is not known


def test_one_other_seed_does_not_outweigh_the_three_of_the_project(root: Path) -> None:
    spread = {"train": {"Eval/Accuracy": 0.01}}
    project = Project(better={"Accuracy": "higher"}, spread=spread)
    seeds = [("a", 0, 8, 0.5), ("b", 0, 2, 0.625), ("s1", 1, 8, 0.5001)]
    runs = {n: train(root / n, params={"seed": seed, "z": z}) for n, seed, z, _ in seeds}
    tests = [evaluate(root / f"of-{n}", root / f"{n}.bin", accuracy=x) for n, _, _, x in seeds]
    replicas = [(runs["s1"].start, {"Eval/Accuracy": 0.5001})]
    html = render([runs["a"], runs["b"]], tests, project, replicas)
    assert "the project&#39;s default params" in judged(html, "Eval/Accuracy")[2]
    better = Project(better={"Accuracy": "higher"})
    html = render([runs["a"], runs["b"]], tests, better, replicas)
    assert "of 2 runs" in judged(html, "Eval/Accuracy")[2]


def test_where_nothing_can_be_said_it_is_said_why(root: Path) -> None:
    runs = [train(root / "a"), train(root / "b", params={"z": 2})]
    (sentence,) = answers(render(runs, [], Project()))
    assert "`better`" in sentence
    runs, tests = trained(root, c=0.5, d=0.5)
    (sentence,) = answers(render(runs, tests, PROJECT))
    assert sentence == "In no main metric is one run better than all others."


@pytest.mark.parametrize(
    ("first", "second", "best"), [(math.nan, 0.5, 1), (0.5, math.nan, 0), (0.5, math.inf, 1)]
)
def test_no_number_is_never_the_best(root: Path, first: float, second: float, best: int) -> None:
    found = cells(render(*trained(root, a=first, b=second, c=0.25), PROJECT), "Eval/Accuracy")
    assert [number for number, (_, marked) in enumerate(found) if marked] == [best]


def test_any_title_and_any_value_is_shown_as_text(root: Path) -> None:
    title = "손실 🙂 <b>%</b> $\\frac{x}$ & \"'"
    params = {title: [1, None, {"a": math.inf}], "nan": math.nan, "none": None, "no": False}
    tags = {"dvc.experiment": "$\\frac{$"}
    named = {"stage": "<i>stage</i>", "host": "<u>host</u>"}
    run = new_run(root / "odd", params=params, tags=tags, **named)
    run.log({title: 1.0, "x": math.nan}, step=1)
    run.log({title: math.inf, "x": math.nan}, step=2)
    run.log({title: -2.0}, step=3)
    run.image(title, np.zeros((2, 2), np.uint8))
    html = render([view(end_run(root / "odd"))], [], Project())
    for markup in ("<b>", "<i>", "<u>"):
        assert markup not in html
    text = unescape(html)
    assert f"<h3>{title}</h3>" in text
    assert f"<tr><th>{title}</th><td>[1, None, {{'a': inf}}]</td></tr>" in text
    assert f"<tr><th>{title}</th><td>-2</td></tr>" in text
    assert "<tr><th>nan</th><td>nan</td></tr>" in text
    assert "<h2><i>stage</i></h2>" in text


def test_runs_are_the_workspaces_or_those_named_by_when_they_began(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"records/.*no record yet.*dvc repro"):
        report([], root / "report.html")
    train(root / "records/vae", time=3)
    train(root / "records/ae", time=2)
    evaluate(run_dir(root, "of-vae"), root / "records/vae.bin")
    report([], root / "report.html")
    html = (root / "report.html").read_text()
    assert html.index("<th>ae</th>") < html.index("<th>vae</th>"), "by when they began"
    assert judged(html, "Eval/Accuracy")[:2] == ("-", "0.5")
    assert "2 runs" in capsys.readouterr().out
    report(["records/ae"], root / "one.html")
    assert "<th>vae</th>" not in (root / "one.html").read_text()
    for name, time in (("evaluate", 3), ("train", 2)):  # of one name, as those of an experiment
        tags = {"study": "s", "study.run": name}
        train(run_dir(root, f"s-{name}"), id=f"s-{name}", stage=name, time=time, tags=tags)
    report(["s"], root / "study.html")
    html = (root / "study.html").read_text()
    assert re.findall("<h2>(.*?)</h2>", html) == ["train", "evaluate"]


def test_what_cannot_be_shown_is_one_sentence(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"^nothing: no record of such a run"):
        report(["nothing"], root / "report.html")
    train(root / "records/vae")
    with pytest.raises(OSError, match="report") as failure:
        report([], Path("/proc/report.html"))
    assert failure.value.filename == "/proc/report.html"
    report([], root / "before.html")
    pictures = (root / "before.html").read_text().count("data:image/png")
    (root / "before.html").unlink()
    for picture in (root / "records/vae/images").glob("*.png"):
        picture.write_bytes(b"no picture")
    report([], root / "whole.html")
    assert "vae: without its damaged files: images/" in capsys.readouterr().err
    assert (root / "whole.html").read_text().count("data:image/png") < pictures
    with (root / "records/vae/events.jsonl").open("ab") as events:
        events.write(b'{"time": 1}\n{"time": 2}\n')
    with pytest.raises(UserError, match="vae: its record cannot be used: "):
        report([], root / "report.html")
    assert not (root / "report.html").exists()


def test_the_newest_evaluation_of_that_very_model_counts_unless_it_is_damaged(root: Path) -> None:
    train(root / "records/vae")
    train(root / "other")
    evaluate(run_dir(root, "whole"), root / "records/vae.bin")
    evaluate(run_dir(root, "damaged"), root / "records/vae.bin", accuracy=0.1, time=99)
    evaluate(run_dir(root, "others"), root / "other.bin", accuracy=0.2, time=999)
    for picture in run_dir(root, "damaged").glob("images/*.png"):
        picture.write_bytes(b"no picture")
    report(["records/vae"], root / "report.html")
    assert judged((root / "report.html").read_text(), "Eval/Accuracy")[0] == "0.1", "a picture"
    with (run_dir(root, "damaged") / "events.jsonl").open("ab") as events:
        events.write(b'{"time": 1}\n{"time": 2}\n')
    report(["records/vae"], root / "report.html")
    assert judged((root / "report.html").read_text(), "Eval/Accuracy")[0] == "0.5", "a line"


def test_a_browser_opens_it_from_the_file_alone_and_runs_nothing(root: Path, page: Page) -> None:
    optimizer = "<script>document.title = 'broken'</script><b>bold</b>"
    tags = {"dvc.experiment": "<img src=x onerror=alert(1)>"}
    train(root / "records/vae", params={"optimizer": optimizer}, tags=tags)
    train(root / "records/ae")
    report([], root / "report.html")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    address = (root / "report.html").as_uri()
    page.goto(address)
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert page.title() == "Runs side by side"
    assert optimizer in page.inner_text("body")
    assert page.locator("script").count() == page.locator("td b").count() == 0
    loaded = page.evaluate("[...document.images].map((image) => image.naturalWidth > 0)")
    assert len(loaded) == 3
    assert all(loaded)


def test_files_that_a_run_kept_are_linked_from_where_the_page_lies(root: Path) -> None:
    (root / "an index.html").write_text("<p>kept</p>")
    (root / "a note.txt").write_text("shown")
    run = new_run(root / "a", id="a")
    run.artifact(root / "an index.html")
    run.artifact(root / "a note.txt")
    html = render([view(end_run(root / "a"))], [], PROJECT, folder=root / "reports")
    (address,) = re.findall(r'<a href="([^"]+)">.*: an index.html</a>', html)
    assert (root / "reports" / unquote(address)).resolve().read_text() == "<p>kept</p>"
    assert html.count("<a ") == 1, "texts are in the page"


def test_in_markdown_it_is_what_differs_and_the_main_metrics(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, tests = trained(root, a=0.5, b=0.75)
    said = render(runs, tests, PROJECT, markdown=True)
    assert said.startswith("### train\n\n- The seed\\-to\\-seed variation of Accuracy is not known")
    table = [line for line in said.splitlines() if line.startswith("|")]
    assert table[:2] == [
        "| Main metrics | a | b | spread over seeds | the best is ahead by |",
        "|---|---|---|---|---|",
    ]
    assert "| Eval/Accuracy (higher is better) | 0.5 | **0.75** | not known | 0.25 |" in table
    assert table[-3:] == ["| What differs | a | b |", "|---|---|---|", "| z | 8 | 2 |"]
    report(["a"], root / "report.html", markdown=True)
    assert capsys.readouterr().out.startswith("### train\n")
    assert not (root / "report.html").exists()


HARMFUL = [
    *("@everyone", "octo/cat#1", "#1", "https://evil.example", "WWW.evil.example", "a|b", "`x`"),
    *("<script>alert(1)</script>", "![x](y)", "[x](y)", "&lt;b&gt;", "**x**", "a\n# b", "\x1b[2J"),
]


@pytest.mark.parametrize("text", HARMFUL)
def test_text_of_records_is_text_in_markdown(root: Path, text: str) -> None:
    """By a parser of GitHub's Markdown: nothing but the tables' own tokens, and the text itself."""
    run = train(root / "a", params={"z": text}, tags={"dvc.experiment": text})
    said = render([run, train(root / "b")], [], PROJECT, markdown=True)
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(said)
    inline = [one for token in tokens for one in token.children or ()]
    assert {one.type for one in inline} <= {"text", "text_special", "strong_open", "strong_close"}
    assert not [token.type for token in tokens if token.type in ("html_block", "fence")]
    shown = ["".join(one.content for one in token.children or ()) for token in tokens]
    plain = [part.replace("\u200b", "") for part in shown]
    assert text.replace("\n", " ").replace("\x1b", "\ufffd") in plain
    assert not re.search(r"[@#]\w|://|(?i:www\.)", "".join(shown))
