"""Public names: none disappears unnoticed, each is what it says, and getting to them loads no torch."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("public_names.txt")
PACKAGES = (
    "backbones",
    "data",
    "deploy",
    "detector",
    "evaluation",
    "images",
    "methods",
    "metrics",
    "prediction",
    "training",
)
MODULES = ("zsad", *(f"zsad.{name}" for name in PACKAGES))
SUBMODULES = {"zsad.errors", "zsad.metrics", "zsad.prompts"}  # public as modules


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)


def test_the_list_is_complete():
    """A name that is removed or added is a change of the API: change tests/public_names.txt with it."""
    offered = [f"{module}.{name}" for module in MODULES for name in importlib.import_module(module).__all__]
    assert sorted(offered) == sorted(LIST.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("module", MODULES)
def test_each_name_is_importable_and_listed(module):
    package = importlib.import_module(module)
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


@pytest.mark.parametrize("module", MODULES)
def test_no_name_hides_a_submodule(module):
    """Importing a submodule binds it on its package, where it would replace a function of the same name."""
    package = importlib.import_module(module)
    submodules = {f"{module}.{found.name}" for found in pkgutil.iter_modules(package.__path__)}
    assert {f"{module}.{name}" for name in package.__all__} & submodules <= SUBMODULES


def test_an_unknown_name_is_refused_with_the_known_ones():
    import zsad

    with pytest.raises(AttributeError, match=r"module 'zsad' has no attribute 'lod'; it has: .*load"):
        zsad.lod  # noqa: B018


def test_importing_the_packages_loads_neither_torch_nor_numpy():
    lazy = ", ".join(module for module in MODULES if module != "zsad.metrics")
    assert run(f"import sys, {lazy}; sys.exit(bool({{'torch', 'numpy'}} & set(sys.modules)))").returncode == 0


@pytest.mark.parametrize(
    "names",
    [
        "from zsad.images import *",
        "from zsad.data import *",
        "from zsad.metrics import *",
        "from zsad.prediction import *",
        "from zsad import PredictOptions, EvaluateOptions, TrainOptions, CalibrateOptions, Calibration",
        "from zsad import list_methods, list_backbones, Prediction, errors; list_methods(); list_backbones()",
    ],
)
def test_what_needs_no_torch_loads_none(names):
    result = run(f"import sys\n{names}\nsys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr
