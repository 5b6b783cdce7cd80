"""The list of mutations fits the code and the tests, and what survives is called so."""

import ast
from pathlib import Path

import pytest
from mutations import MUTATIONS, Mutation, mutated, table
from workspaces import ROOT

from runrecord.git.commands import git

CODE = "def double(number):\n    return 2 * number\n"
TESTS = """
import code_under_test, pytest

def test_of_two():
    assert code_under_test.double(2) == 4

@pytest.mark.skip(reason="nothing to skip for")
def test_of_three():
    assert code_under_test.double(3) == 6
"""


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.file)
def test_a_mutation_is_in_its_file_once_and_its_tests_are_there(mutation: Mutation) -> None:
    text = mutated((ROOT / "src" / mutation.file).read_text(encoding="utf-8"), mutation)
    ast.parse(text)
    assert mutation.tests
    for test in mutation.tests.split():
        file, _, name = test.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not name or name.partition("[")[0] in functions


@pytest.mark.parametrize("old", ["number", "3 * number"])
def test_a_text_that_is_not_there_once_is_an_error_that_names_it(old: str) -> None:
    with pytest.raises(ValueError, match=r"^src/a\.py has '.*number' . times, not once"):
        mutated(CODE, Mutation("a.py", old, "", ""))


def test_the_table_says_what_survived_and_the_code_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One where no test could run, or all were skipped, is not caught either."""
    for name, text in (("src/code_under_test.py", CODE), ("tests/test_it.py", TESTS)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "--quiet")
    tried = [
        Mutation("code_under_test.py", "2 * number", new, test)
        for new, test in (
            ("3 * number", "test_it.py"),
            ("number * number", "test_it.py"),
            ("3 * number", "test_it.py::test_of_three"),
            ("2 * * number", "test_it.py"),
        )
    ]
    assert table(dict(enumerate(tried, start=1)), tmp_path) == 3
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| 1 | code_under_test.py | test_it.py::test_of_two | caught |",
        "| 2 | code_under_test.py | test_it.py | SURVIVED |",
        "| 3 | code_under_test.py | test_it.py::test_of_three | NOT TRIED |",
        "| 4 | code_under_test.py | test_it.py | NOT TRIED |",
    ]
    assert (tmp_path / "src/code_under_test.py").read_text() == CODE
