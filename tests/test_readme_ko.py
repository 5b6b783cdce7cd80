"""The README in Korean has the commands, figures, links and pictures of the one in English."""

import re
from collections import Counter

from workspaces import ROOT, code_blocks

ENGLISH, KOREAN = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")
)


def commands(text: str) -> list[str]:
    """Each command of the code blocks, less what a comment says."""
    blocks = code_blocks(text, r"\w+")
    return [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]


def test_commands_figures_links_pictures_and_names_of_files_are_the_same() -> None:
    assert len(commands(ENGLISH)) > 40
    assert commands(KOREAN) == commands(ENGLISH)
    english, korean = (
        [re.findall(r"\d[\d.]+", row) for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
        for text in (ENGLISH, KOREAN)
    )
    assert sum(map(len, english)) > 25
    assert korean == english
    for pattern in (r"\]\(([^)]+)\)", r"`([^`\n]+)`", r"(?m)^(## )"):
        counted = [
            Counter(name for name in re.findall(pattern, text) if "README" not in name)
            for text in (ENGLISH, KOREAN)
        ]
        assert counted[0] == counted[1]
