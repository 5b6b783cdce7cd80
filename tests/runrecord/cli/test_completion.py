"""Commands are completed in bash, by the line that the guide gives."""

import re
import shlex
from pathlib import Path

from workspaces import ROOT, Workspace

GUIDE = ROOT / "docs" / "runrecord" / "guide.md"
ASK = """
function=$(complete -p runrecord | sed 's/.* -F \\(\\w*\\).*/\\1/')
for typed in 'runrecord ver' 'runrecord verify --att' 'runrecord sweep --search t'; do
    COMP_WORDS=($typed)
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    $function runrecord "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
    echo "${COMPREPLY[@]}"
done
"""


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    (line,) = re.findall(r"^(eval .*shtab.*?) *(?:#.*)?$", GUIDE.read_text(), re.MULTILINE)
    said = Workspace(tmp_path).run("bash", "--norc", "-c", line + ASK)
    assert [shlex.split(one) for one in said.splitlines()] == [["verify"], ["--attest"], ["tpe"]]
