"""Which of this repository's files a script imports, itself included."""

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
        for module in _imports(ast.parse(path.read_text())):
            parts = module.split(".")
            for length in range(1, len(parts) + 1):
                todo += [file for folder in folders for file in _files(folder, parts[:length])]
    return {str(path.relative_to(root.resolve())) for path in found}


def _files(folder: Path, parts: list[str]) -> list[Path]:
    base = folder.joinpath(*parts)
    candidates = [base.with_suffix(".py"), base / "__init__.py"]
    return [path.resolve() for path in candidates if path.is_file()]


def _imports(tree: ast.AST) -> set[str]:
    modules: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        modules |= _imports(node)
    return modules
