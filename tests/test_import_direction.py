"""Lower layers never import higher ones (DESIGN, section 3), and `import zsad` stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "zsad"

# Lowest first. Modules of one layer may import each other, except methods.
LAYERS = (
    "errors types atomic settings",
    "functional losses metrics images pixels decoding foreign_files picture_files remote_files medical "
    "colours",
    "weights tensorfile registry backbones prompts data published",
    "methods",
    "detector checkpoints explanation calibration tiling visualize",
    "training features evaluation export report results run_layout prediction recipes runtime",
    "serve cli doctor __main__",
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names.split()}


def layer_of(name):
    """A module's layer; NAME_PART belongs to the layer of NAME unless it is listed itself."""
    while name not in LAYER_OF and "_" in name:
        name = name.rpartition("_")[0]
    assert name in LAYER_OF, f"give {name} a layer in tests/test_import_direction.py"
    return LAYER_OF[name]


# A result offers drawing and saving of itself; both are imported when they are called.
ALLOWED = {("types", "visualize")}
# The file that runs an exported model is for machines without torch.
RUNTIME_MAY_IMPORT = {
    "errors",
    "types",
    "atomic",
    "settings",
    "images",
    "pixels",
    "decoding",
    "picture_files",
}


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(tree):
    """Names under `zsad` that a file imports, inside functions too; type-checking blocks are not run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("zsad.") for alias in node.names if alias.name.startswith("zsad.")
            )
        elif isinstance(node, ast.ImportFrom) and node.module == "zsad":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zsad."):
            yield node.module.removeprefix("zsad.")
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "a relative import"
        yield from imports_of(node)


MODULES = {
    module_name(path): path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"
}


@pytest.mark.parametrize("module", MODULES)
def test_direction(module):
    own = module.split(".")[0]
    for imported in imports_of(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        target = imported.split(".")[0]
        if not (PACKAGE / target).is_dir() and not (PACKAGE / f"{target}.py").is_file():
            assert target == "__version__", f"zsad.{module} imports {imported}"
            continue
        allowed = (own, target) in ALLOWED or layer_of(target) <= layer_of(own)
        assert allowed, f"zsad.{module} imports {imported}"
        if own == "runtime":
            assert target in RUNTIME_MAY_IMPORT, f"zsad.runtime imports {imported}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("methods.")])
def test_methods_do_not_import_each_other(module):
    for imported in imports_of(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        assert not imported.startswith("methods.") or imported == "methods.base"


@pytest.mark.parametrize(
    "code", ["import zsad", "import zsad; zsad.list_methods()", "import zsad.types, zsad.images.reading"]
)
def test_torch_waits_until_it_is_needed(code):
    check = f"import sys\n{code}\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
