"""Who may import whom. A wrong import fails here with the file and the line."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "model": {"service", "training", "fastapi", "starlette", "gensim", "httpx", "uvicorn"},
    "service": {"training", "gensim", "torch"},
    "training": {"service", "fastapi", "starlette", "uvicorn"},
}
ONLY_STANDARD_LIBRARY = {"model/labels.py", "service/batching.py"}
# Serving on a CPU must not need torch: it may be imported inside a function, or by these.
DEFINE_THE_NETWORK = {"model/context.py", "model/loss.py", "model/network.py"}


def imports(path, only_at_import_time=False):
    """(line, top-level package) of the imports of a file."""
    waiting = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").split(".")[0]
        runs_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        if not (only_at_import_time and runs_later):
            waiting += ast.iter_child_nodes(node)


FILES = sorted(path.relative_to(ROOT).as_posix() for d in FORBIDDEN for path in (ROOT / d).rglob("*.py"))


@pytest.mark.parametrize("name", FILES)
def test_imports_point_one_way(name):
    banned = FORBIDDEN[name.split("/")[0]]
    assert [f"{name}:{line} imports {m}" for line, m in imports(ROOT / name) if m in banned] == []


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("model/")])
def test_the_core_is_imported_without_torch(name):
    if name not in DEFINE_THE_NETWORK:
        found = list(imports(ROOT / name, only_at_import_time=True))
        assert [f"{name}:{line}" for line, m in found if m == "torch"] == []


@pytest.mark.parametrize("name", sorted(ONLY_STANDARD_LIBRARY))
def test_what_is_pure_imports_the_standard_library_only(name):
    beyond = [(line, m) for line, m in imports(ROOT / name) if m not in sys.stdlib_module_names]
    assert beyond == []
