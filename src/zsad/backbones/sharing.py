"""Modules that share the memory of their weights."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def sharing_weights(module: ModuleT) -> ModuleT:
    """A copy of a module whose weights are the same memory, and nothing else is.

    Settings, hooks, training mode and `requires_grad` of the copy are its own; so is its device, because
    moving either module gives it new memory. A change of the weights in place shows in both.

    Args:
        module: module with parameters and buffers of any kind.

    Returns:
        The copy, in the training mode of the original.
    """
    twin = copy.copy(module)
    own = {name: copy.copy(value) for name, value in vars(module).items() if isinstance(value, dict)}
    vars(twin).update(own)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            twin._parameters[name] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    for name, child in module._modules.items():
        if child is not None:
            twin._modules[name] = sharing_weights(child)
    return twin
