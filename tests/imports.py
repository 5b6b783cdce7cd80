"""What modules import, read from their source."""

import ast
from pathlib import Path


def imported_files(script: Path, root: Path) -> set[str]:
    """Paths, relative to `root`, of every file that `script` can come to import, itself included.

    Imports under `TYPE_CHECKING` never run and do not count; those inside functions do.
    """
    folders = [root / "stages", root / "src"]
    found: set[Path] = set()
    todo = [script.resolve()]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found.add(path)
        for module in modules_imported(path.read_text()):
            parts = module.split(".")
            for length in range(1, len(parts) + 1):
                todo += [file for folder in folders for file in _files(folder, parts[:length])]
    return {str(path.relative_to(root.resolve())) for path in found}


def _files(folder: Path, parts: list[str]) -> list[Path]:
    base = folder.joinpath(*parts)
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    return [path.resolve() for path in candidates if path.is_file()]


def modules_imported(source: str) -> dict[str, bool]:
    """What a module imports, `a` and `a.b` for `from a import b`: is it only inside functions?

    Imports under `TYPE_CHECKING` never run and do not count.
    """
    found: dict[str, bool] = {}

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom) and child.module:
                names = [child.module, *(f"{child.module}.{a.name}" for a in child.names)]
            for name in names:
                found[name] = found.get(name, True) and inside
            visit(child, inside or isinstance(child, ast.FunctionDef))

    visit(ast.parse(source), False)
    return found
