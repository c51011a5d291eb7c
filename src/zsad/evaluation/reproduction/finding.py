"""Finds recipes: YAML files, one for each row of a published table, that ship with zsad or come from a user.

`bases/NAME.yaml` holds what the recipes of a method share. A recipe with `extends: NAME` starts from it, and
its own values take precedence. `settings`, `train` and `test` are merged key by key; assumptions accumulate.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsad.errors import ConfigError, unknown_name
from zsad.evaluation.reproduction.recipe import Recipe, build_recipe
from zsad.files.fields import shortened
from zsad.files.yaml_files import read_yaml

SUFFIX = ".yaml"
BASES = "bases"
EXAMPLE = "method: anomalyclip"
_MERGED = ("settings", "train", "first_stage", "test")


def recipes_folder() -> Path:
    """Finds the folder of recipes: inside the installed package, or at the top of a checkout.

    Raises:
        ConfigError: the installation has no recipes.
    """
    package = Path(__file__).parent
    for folder in (package / "recipes", package.parents[3] / "recipes"):
        if (folder / BASES).is_dir():
            return folder
    raise ConfigError("this installation has no recipes: reinstall zsad, or give the path of a recipe")


def list_recipes() -> list[str]:
    """Names of the recipes that ship with zsad, sorted."""
    return sorted(path.stem for path in recipes_folder().glob(f"*{SUFFIX}"))


def find_recipe(name: str) -> Recipe:
    """Finds a recipe by its name or its file.

    Args:
        name: a name in `list_recipes`, where case, "-" and "_" do not matter, or the path of a YAML file.

    Raises:
        ConfigError: no recipe has that name, or its file is wrong.

    Example:
        >>> find_recipe("april-gan-visa").title
        'APRIL-GAN on VisA'
    """
    path = Path(name)
    if path.suffix == SUFFIX and path.is_file():
        return read_recipe(path)
    known = list_recipes()
    for each in known:
        if _folded(each) == _folded(name):
            return read_recipe(recipes_folder() / f"{each}{SUFFIX}")
    near = difflib.get_close_matches(_folded(name), known, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown recipe {name!r}:{hint} `zsad reproduce --list` shows all {len(known)}")


def read_recipe(path: Path) -> Recipe:
    """Reads a recipe and the base that it extends.

    Raises:
        ConfigError: a file cannot be read or is wrong; the message names recipe and key.
    """
    own = read_yaml(path, EXAMPLE)
    base = own.pop("extends", None)
    if base is None:
        return build_recipe(own, path.stem)
    if not isinstance(base, str):
        raise ConfigError(
            f"`extends` of recipe {path.stem} must be the name of a base, got {shortened(base)}"
        )
    return build_recipe(_merged(read_yaml(_base_file(base, path), EXAMPLE), own), path.stem)


def _base_file(base: str, recipe: Path) -> Path:
    """Finds the file of a base beside the recipe, or among the shipped bases."""
    folders = (recipe.parent / BASES, recipes_folder() / BASES)
    for folder in folders:
        if (folder / f"{base}{SUFFIX}").is_file():
            return folder / f"{base}{SUFFIX}"
    known = {path.stem for folder in folders for path in folder.glob(f"*{SUFFIX}")}
    raise unknown_name(f"base in `extends` of recipe {recipe.stem}", base, known)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **own}
    for key in _MERGED:
        parts = [each[key] for each in (base, own) if each.get(key) is not None]
        if parts and all(isinstance(part, Mapping) for part in parts):
            merged[key] = {name: value for part in parts for name, value in part.items()}
    assumptions = [each["assumptions"] for each in (base, own) if each.get("assumptions")]
    if assumptions and all(isinstance(each, list) for each in assumptions):
        merged["assumptions"] = [line for each in assumptions for line in each]
    return merged


def _folded(name: str) -> str:
    return name.casefold().replace("_", "-")
