"""The table of the chapter's listings: what it names is there, the same in both languages."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from workspaces import ROOT, code_blocks

import models

DOCS = ROOT / "docs"
ENGLISH, KOREAN = (
    (DOCS / name).read_text(encoding="utf-8") for name in ("chapter.md", "chapter.ko.md")
)
LISTINGS = {f"13-{number}" for number in range(1, 19)}

_NAMED = re.compile(r"\]\(([^)]+\.py)\): ((?:`[\w.]+`(?:, )?)+)")


def rows(text: str) -> list[list[str]]:
    """The cells of each row that is about a listing."""
    lines = re.findall(r"^\| (.*13-\d+.*) \|$", text, re.MULTILINE)
    cells = [line.split(" | ") for line in lines]
    return [row for row in cells if re.search(r"13-\d+", row[0])]


def named(cell: str) -> list[tuple[str, str]]:
    """Each file and name in it, as `[ae.py](../src/ae.py): `AE`, `AE.encode``."""
    return [
        (file, name)
        for file, names in _NAMED.findall(cell)
        for name in re.findall(r"`([\w.]+)`", names)
    ]


@cache
def defined(path: Path) -> set[str]:
    """The functions and classes of a module, methods by the name of their class."""
    kinds = ast.FunctionDef, ast.ClassDef
    nodes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, kinds)]
    parts = {f"{n.name}.{part.name}" for n in nodes for part in n.body if isinstance(part, kinds)}
    return parts | {node.name for node in nodes}


def test_no_listing_is_missing_and_each_name_is_there() -> None:
    assert {row[0] for row in rows(ENGLISH)} >= LISTINGS
    for _, _, here, _ in rows(ENGLISH):
        found = named(here)
        assert found, here
        assert len({file for file, _ in found}) == here.count("]("), here
        for file, name in found:
            assert name in defined((DOCS / file).resolve()), f"{file}: {name}"


def test_both_languages_have_the_same_rows_and_figures() -> None:
    def listed(text: str) -> list[tuple[list[str], list[tuple[str, str]]]]:
        return [(re.findall(r"13-\d+", row[0]), named(row[2])) for row in rows(text)]

    assert listed(KOREAN) == listed(ENGLISH)
    for pattern in (r"\d\.\d+", r"^## "):
        found = [re.findall(pattern, text, re.MULTILINE) for text in (ENGLISH, KOREAN)]
        assert found[0] == found[1]
    assert code_blocks(KOREAN) == code_blocks(ENGLISH)


def test_a_network_is_printed_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has PyTorch: importing it takes longer than all the rest."""
    (block,) = code_blocks(ENGLISH)
    program, option, code = shlex.split(block)
    assert (program, option) == ("python", "-c")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ae.safetensors").write_bytes(models.ae().to_bytes())
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out == f"{models.ae()}\n"
