"""Public names of a package, imported when they are first used.

The stub `__init__.pyi` beside a package's `__init__.py` lists them once, as plain imports that type checkers
and editors read too.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any


def public_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose stub lists its names.

    Args:
        package: `__name__` of the package.

    Returns:
        The three, for the package's `__init__.py` to take over. A name is imported from the module that the
        stub names, which may be a submodule itself (`from zsad import metrics`).

    Example:
        >>> find, _, names = public_names("zsad.prediction")
        >>> names
        ['PredictOptions', 'PredictResult', 'WatchOptions', 'predict_folder', 'watch_folders']
        >>> find("PredictOptions").__module__
        'zsad.prediction.options'
    """
    modules = _modules(package)
    names = sorted(modules)

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has: {', '.join(names)}")
        if modules[name] == package:
            return importlib.import_module(f"{package}.{name}")
        try:
            return getattr(importlib.import_module(modules[name]), name)
        except ModuleNotFoundError as error:
            from zsad.errors import without_torch

            raise without_torch(error) from error

    return find, lambda: names, names


def _modules(package: str) -> dict[str, str]:
    """The module of each name that the stub of a package imports."""
    stub = ast.parse(pkgutil.get_data(package, "__init__.pyi") or b"")
    imports = [statement for statement in stub.body if isinstance(statement, ast.ImportFrom)]
    return {alias.name: statement.module or "" for statement in imports for alias in statement.names}
