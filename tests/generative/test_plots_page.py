"""`dvc plots show` draws its charts on a machine without internet."""

from pathlib import Path

from playwright.sync_api import Page, expect
from workspaces import Workspace

from generative.pipeline.plots_page import plots_page


def test_its_charts_are_drawn_and_nothing_is_fetched(
    built: Workspace, tmp_path: Path, page: Page
) -> None:
    (tmp_path / "template.html").write_text(plots_page())
    template = ("--html-template", str(tmp_path / "template.html"))
    built.run("dvc", "plots", "show", *template, "--out", str(tmp_path / "plots"))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "plots/index.html").as_uri())
    charts = page.locator(".vega-embed canvas, .vega-embed svg")
    expect(charts.first).to_be_visible()
    expect(page.locator(".vega-embed").nth(3)).to_be_visible()
    assert charts.count() >= 4, "two curves of each model"
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    pictures = page.evaluate("[...document.images].map((image) => image.naturalWidth > 0)")
    assert len(pictures) > 10
    assert all(pictures)
