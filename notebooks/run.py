"""The notebooks, run in place, with nothing of this machine in them: `make notebook`.

    python notebooks/run.py                     both
    python notebooks/run.py chapter13.ipynb     one

They train on MNIST where `dvc repro` has downloaded it, else on the sample of the tests.
"""

import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
NAMES = ("chapter13.ipynb", "chapter13.ko.ipynb")


def run(path: Path, scratch: Path) -> None:
    """Run all cells and keep their outputs; all that they leave elsewhere is in `scratch`.

    Raises:
        CellExecutionError: with the traceback of the cell that failed; the file stays as it was.
    """
    os.environ |= {
        "IPYTHONDIR": str(scratch),
        "JUPYTER_RUNTIME_DIR": str(scratch),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "TMPDIR": str(scratch),
    }
    notebook = nbformat.read(path, as_version=4)
    metadata = notebook.metadata.copy()
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        extra_arguments=["--Application.log_level=ERROR"],
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute()
    finally:
        end_viewers(scratch)
    notebook.metadata = metadata  # less the versions of this machine
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = kept(cell.outputs)
    nbformat.write(notebook, path)


def kept(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """All but the page of a server that has ended; what was printed in parts is one text."""
    result: list[nbformat.NotebookNode] = []
    for output in outputs:
        if "<iframe" in output.get("data", {}).get("text/html", ""):
            continue
        name = output.get("name")  # of a stream
        if result and name and name == result[-1].get("name"):
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def end_viewers(scratch: Path) -> None:
    """End each TensorBoard that cells have started; the kernel's end should have done so."""
    for info in (scratch / ".tensorboard-info").glob("pid-*.info"):
        with suppress(ProcessLookupError):
            os.kill(int(info.stem.removeprefix("pid-")), signal.SIGTERM)


if __name__ == "__main__":
    for name in sys.argv[1:] or NAMES:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            run(HERE / Path(name).name, Path(folder))
