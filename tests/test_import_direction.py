"""Who may import whom: the table of docs/architecture.md as a test.

Every import counts, also inside functions and in type-checking blocks.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "zsad"

ALL = "errors _version files images types data metrics backbones methods detector prediction training"
MAY_IMPORT = {
    "errors": "",
    "_version": "",
    "_lazy": "errors",
    "files": "errors _version",
    "metrics": "errors _version",
    "images": "_lazy errors files",
    "types": "errors images",
    "data": "_lazy errors files images types",
    "backbones": "_lazy errors files types",
    "methods": "_lazy errors files types backbones data",
    "detector": "_lazy errors files images types data backbones methods metrics _version",
    "prediction": "_lazy errors _version files images types backbones detector",
    "training": "_lazy errors _version files images types metrics data backbones methods detector",
    "evaluation": "_lazy errors _version files metrics images types data backbones methods detector training",
    "deploy": "_lazy errors _version files images types data backbones methods detector",
    "cli": f"{ALL} evaluation deploy __init__",
    "prompts": "methods",
    "__init__": f"_lazy {ALL} evaluation deploy prompts",
    "__main__": "cli",
}
# Narrower than the row: these packages use one room of another.
ONLY = {
    ("methods", "data"): "zsad.data.synthetic",
    ("deploy", "data"): "zsad.data.synthetic",
    ("prediction", "backbones"): "zsad.backbones.devices",
}
# These run where torch is not installed.
WITHOUT_TORCH = {
    "deploy/runtime.py",
    "deploy/sessions.py",
    "deploy/bundle.py",
    "deploy/__init__.py",
    "detector/predicting.py",
    "detector/decision.py",
    "detector/scorer.py",
    "detector/__init__.py",
}
WITHOUT_TORCH_MAY_IMPORT = "_lazy errors _version files images types deploy"
LONGEST_CHAIN = 11
MOST_LINES = 400
MEDIAN_LINES = 160
MOST_ENTRIES = 15


def sources():
    return sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")])


def module_of(path):
    """Dotted name below `zsad`; a package is named by its folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path) for path in sources()}


def resolved(name):
    """The module that a dotted name means: itself, or the one that holds the imported definition."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or "__init__"


def nodes_run_at_import(tree):
    """The statements that run when a module is imported: none inside functions or for type checkers alone."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        is_for_type_checkers = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if is_for_type_checkers or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        pending.extend(ast.iter_child_nodes(node))


def imports_in(text, module, at_import=False):
    """Modules below `zsad` that a file imports: anywhere in it, or only when it is imported itself."""
    tree = ast.parse(text)
    for node in nodes_run_at_import(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "zsad" or alias.name.startswith("zsad."):
                    yield resolved(alias.name.removeprefix("zsad").lstrip("."))
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = (
                module.split(".")[: len(module.split(".")) - node.level + 1] if module != "__init__" else []
            )
            for alias in node.names:
                yield resolved(".".join(filter(None, [*base, node.module, alias.name])))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "zsad":
            inner = node.module.removeprefix("zsad").lstrip(".")
            for alias in node.names:
                yield resolved(f"{inner}.{alias.name}".lstrip("."))


def edges(at_import=False):
    """(file, module, imported module) of every import."""
    for path in sources():
        if at_import and path.suffix == ".pyi":
            continue  # read by type checkers; its names are imported when they are first used
        module = module_of(path)
        for imported in imports_in(path.read_text(encoding="utf-8"), module, at_import):
            if imported != module:
                yield path, module, imported


def package(module):
    return module.split(".")[0]


def is_allowed(module, imported):
    row = MAY_IMPORT[package(module)].split()
    narrow = ONLY.get((package(module), package(imported)))
    if narrow and not f"zsad.{imported}".startswith(narrow):
        return False
    return package(imported) == package(module) or package(imported) in row


def test_every_entry_has_a_row():
    entries = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    entries -= {"__pycache__"}
    assert entries <= set(MAY_IMPORT)
    rooms = {name for name in entries if not name.startswith("_")}
    assert len(rooms) <= MOST_ENTRIES


def test_imports_go_down():
    wrong = [
        f"{module} imports {imported}" for _, module, imported in edges() if not is_allowed(module, imported)
    ]
    assert not wrong


def test_a_method_imports_no_other_method():
    allowed = ("methods.base", "methods.training", "methods.functional", "methods.prompts")
    wrong = [
        f"{module} imports {imported}"
        for path, module, imported in edges()
        if path.parent == PACKAGE / "methods"
        and path.stem not in {"base", "_registry", "__init__"}
        and package(imported) == "methods"
        and not imported.startswith(allowed)
    ]
    assert not wrong


def test_the_runtime_needs_no_torch():
    wrong = [
        f"{module} imports {imported}"
        for path, module, imported in edges()
        if path.relative_to(PACKAGE).as_posix() in WITHOUT_TORCH
        and package(imported) not in WITHOUT_TORCH_MAY_IMPORT.split()
        and f"{imported.replace('.', '/')}.py" not in WITHOUT_TORCH
    ]
    assert not wrong


def graph(at_import=False):
    found = {module: set() for module in MODULES}
    for _, module, imported in edges(at_import):
        found[module].add(imported)
    return found


def circle_in(found):
    """A circle of files, or an empty list."""
    state, path = {}, []

    def visit(module):
        state[module] = "open"
        path.append(module)
        for imported in sorted(found.get(module, ())):
            if state.get(imported) == "open":
                return path[path.index(imported) :]
            if imported not in state and (circle := visit(imported)):
                return circle
        state[module] = "done"
        path.pop()
        return []

    return next(filter(None, (visit(module) for module in sorted(found) if module not in state)), [])


def test_no_circles():
    assert not circle_in(graph())


def test_chains_are_short():
    """What importing a module pulls in, one file after the other."""
    found, longest = graph(at_import=True), {}

    def chain(module):
        if module not in longest:
            below = max((chain(imported) for imported in found.get(module, ())), key=len, default=[])
            longest[module] = [module, *below]
        return longest[module]

    worst = max((chain(module) for module in found), key=len)
    assert len(worst) <= LONGEST_CHAIN, " -> ".join(worst)


def test_files_are_short():
    lengths = sorted(
        (len(path.read_text(encoding="utf-8").splitlines()), path.name) for path in PACKAGE.rglob("*.py")
    )
    assert lengths[-1][0] <= MOST_LINES, lengths[-5:]
    assert lengths[len(lengths) // 2][0] <= MEDIAN_LINES


@pytest.mark.parametrize(
    "text",
    [
        "from zsad.cli.options import fail",
        "import zsad.cli.options",
        "from zsad.cli import options",
        "def run():\n    from zsad.cli.options import fail",
        "if TYPE_CHECKING:\n    from zsad.cli.options import fail",
        "class A:\n    def run(self):\n        import zsad.cli.options as options",
    ],
)
def test_an_upward_import_is_seen_wherever_it_stands(text):
    assert [is_allowed("images.reading", imported) for imported in imports_in(text, "images.reading")] == [
        False
    ]


def test_a_circle_is_seen():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert not circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()})


@pytest.mark.parametrize(
    "code", ["import zsad", "import zsad; zsad.list_methods()", "import zsad.types, zsad.images.reading"]
)
def test_torch_waits_until_it_is_needed(code):
    check = f"import sys\n{code}\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
