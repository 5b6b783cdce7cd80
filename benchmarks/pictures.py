"""The pictures of README and docs that show results, made anew: `make pictures`.

Needs committed results (`make repro`), the experiment `clean` of the README, and Chromium. Shows
runs by the TensorBoard of this checkout. Pictures of measurements are made by what
measures: bench.py, growth.py, study.py.
"""

import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Error, Page, sync_playwright

from runrecord.cli.pages import free_port
from runrecord.cli.runs import find_records
from runrecord.record.reader import Record, view

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
RUNS = {
    "HEAD:ae": "Autoencoder, target noisy (the chapter's)",
    "clean:ae": "Autoencoder, target clean",
    "HEAD:vae": "Variational autoencoder",
}
_CAPTION, _GAP = 30, 28  # pixels: the height of a caption, the space between pictures
_ROW = 110  # the height of a row of images with its title

Rows = Sequence[Sequence[Image.Image]]


def main() -> None:
    """Make them."""
    records = [record for name in RUNS for record in find_records(ROOT, name)]
    previews = [
        _captioned(_last_preview(record), title)
        for record, title in zip(records, RUNS.values(), strict=True)
    ]
    _save(_composed([previews[:2], previews[2:]]), "epoch30")
    shown = {path.stem: Image.open(path) for path in (ROOT / "metrics/pictures").glob("*.png")}
    beside = _composed([[shown["vae_interpolation"]], [shown["vae_divergences"]]])
    _save(_composed([[shown["denoising"], beside]]), "evaluation")
    traversals = shown["vae_traversals"]
    rows = shown["ae_latent_map"].height // _ROW
    some = traversals.crop((0, 0, traversals.width, rows * _ROW))
    _save(_composed([[shown["ae_latent_map"], some]]), "latents")
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(60_000)
        _report(page)
        _explorer(page)
        _tensorboard(page, [record.start.id for record in records])
        browser.close()


def _last_preview(record: Record) -> Image.Image:
    """The last picture that a run logged."""
    (file,) = view(record).last_images().values()
    return Image.open(record.place(file.name)).convert("RGB")


def _captioned(picture: Image.Image, title: str) -> Image.Image:
    canvas = Image.new("RGB", (picture.width, picture.height + _CAPTION), "white")
    font = ImageFont.load_default(size=18)
    ImageDraw.Draw(canvas).text((4, 2), title, fill="black", font=font)
    canvas.paste(picture, (0, _CAPTION))
    return canvas


def _composed(rows: Rows) -> Image.Image:
    """Pictures in rows, from the left."""
    widths = [sum(one.width for one in row) + _GAP * (len(row) - 1) for row in rows]
    heights = [max(one.height for one in row) for row in rows]
    canvas = Image.new("RGB", (max(widths), sum(heights) + _GAP * (len(rows) - 1)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for one in row:
            canvas.paste(one.convert("RGB"), (left, top))
            left += one.width + _GAP
        top += height + _GAP
    return canvas


def _save(picture: Image.Image, name: str) -> None:
    picture.save(PICTURES / f"{name}.png", optimize=True)


def _report(page: Page) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        command = ["runrecord", "report", "HEAD:ae", "clean:ae", "--output", str(file)]
        subprocess.run(command, cwd=ROOT, check=True)
        page.goto(file.as_uri())
        page.screenshot(path=PICTURES / "report.png")


def _explorer(page: Page) -> None:
    page.goto((ROOT / "metrics/explorer.html").as_uri())
    page.screenshot(path=PICTURES / "explorer.png")


def _tensorboard(page: Page, runs: Sequence[str]) -> None:
    """The last preview of each of those runs."""
    with _viewing("tensorboard") as said:
        address = re.search(r"http://[\d.:]+", said)
        assert address, said
        page.set_viewport_size({"width": 1200, "height": 830})
        found = page.locator("tf-category-paginated-view").first
        last = found.get_by_text("step 30")
        for _ in range(60):  # it loads runs little by little, and shows what it has
            if last.count() == len(runs):
                break
            page.goto("about:blank")
            page.goto(f"{address[0]}/#images&regexInput={'|'.join(runs)}")
            page.get_by_role("textbox", name="Filter tags").fill("^(Original|Test image -)")
            with suppress(Error):
                last.nth(len(runs) - 1).wait_for(timeout=5000)
        page.screenshot(path=PICTURES / "tensorboard.png")


@contextmanager
def _viewing(viewer: str) -> Iterator[str]:
    """A running viewer: what it printed until it answered."""
    port = free_port(7000)
    command = ["runrecord", viewer, "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        try:
            for line in process.stdout:
                said += line
                if line.startswith("Ctrl-C"):
                    break
            _wait_for(port)
            yield said
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    """Until something listens there, two minutes at most."""
    for _ in range(600):
        with suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port)).close()
        time.sleep(0.2)
    sys.exit(f"error: no viewer answers on port {port}; unset MLFLOW_TRACKING_URI.")


if __name__ == "__main__":
    main()
