"""The value of a function and its gradient, in two forms with one contract, so that every loss is written once.

`torch.func.grad_and_value` compiles into one graph and maps over classes. Where neither is asked for, plain autograd is
faster and reaches the hand-written kernels, which torch.func cannot follow: `eager_grad_and_value` is that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.func import grad_and_value
from torch.utils._pytree import tree_flatten, tree_unflatten

GradAndValue = Callable[..., Callable[..., Any]]
"""``(function, argnums=0)`` to a function of the same arguments that gives (gradient, value)."""


def grad_and_value_for(functional: bool) -> GradAndValue:
    """torch.func's form, for what is compiled or mapped; else that of plain autograd."""
    return grad_and_value if functional else eager_grad_and_value


def eager_grad_and_value(
    function: Callable[..., torch.Tensor], argnums: int | tuple[int, ...] = 0
) -> Callable[..., Any]:
    """`torch.func.grad_and_value` by plain autograd, and as fast as it.

    Inside of another gradient it keeps the graph. It knows that by an argument that requires a gradient, so what an
    outer gradient is taken of must be an argument, not a variable of an enclosing function.

    Args:
        function: gives a 0-d tensor.
        argnums: which arguments the gradient is taken of, each a tensor or a dict (list, tuple) of tensors.

    Returns:
        A function of the same arguments that gives (gradient, value); the gradient is shaped like the argument, zeros
        for a tensor that the value does not depend on, and a tuple where ``argnums`` is one.
    """
    chosen = (argnums,) if isinstance(argnums, int) else argnums

    def run(*arguments: Any) -> tuple[Any, torch.Tensor]:
        nested = any(torch.is_tensor(leaf) and leaf.requires_grad for leaf in tree_flatten(arguments)[0])
        flat = [tree_flatten(arguments[number]) for number in chosen]
        inputs = [
            leaf if leaf.requires_grad else leaf.detach().requires_grad_() for leaves, _ in flat for leaf in leaves
        ]
        given, left = list(arguments), iter(inputs)
        for number, (leaves, spec) in zip(chosen, flat, strict=True):
            # views, since torch's FLOP counter cannot hook a leaf under autograd.grad
            given[number] = tree_unflatten([next(left).view_as(leaf) for leaf in leaves], spec)
        value = function(*given)
        found = torch.autograd.grad(value, inputs, create_graph=nested, allow_unused=True)
        filled = iter([torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)])
        gradients = tuple(tree_unflatten([next(filled) for _ in leaves], spec) for leaves, spec in flat)
        return gradients[0] if isinstance(argnums, int) else gradients, value if nested else value.detach()

    return run
