"""LoRA: dense layers that learn a product of two small matrices beside their kernel.

Hu et al. (2021), arXiv:2106.09685.

    params = lora.add(params, key, rank=8, alpha=16, pattern=".*attention/(query|value)")
    with lora.adapting(params):
        logits = model.apply({"params": params}, tokens)
    params = lora.merge(params)  # as they were, kernels changed

What is learned stands beside the kernel: "layers/attention/query" then has `lora_a` (in, rank), `lora_b` (rank, out)
and `lora_scale` (), a constant; in layers that are stacked each with an axis in front. So no model knows of it, scans
cut it as they do the kernel, and it is frozen, sharded and saved by name as all else is. A run's config has
`lora=dict(rank=..., alpha=..., pattern=...)`; `deepmodels.loading.save_adapter` writes peft's files.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deepmodels import trees
from deepmodels.errors import ConfigError, nearest
from deepmodels.trees import PyTree

LEAVES = ("lora_a", "lora_b", "lora_scale")
_LEARNED = r"(.*/)?lora_[ab]"


def add(params: PyTree, key: jax.Array, *, rank: int, pattern: str, alpha: float | None = None) -> PyTree:
    """Returns parameters with adapters, which change nothing yet: `lora_b` is 0.

    Args:
      params: of a model. Dense layers can have adapters, alone or stacked by a scan.
      key: of the values of `lora_a`, uniform up to 1 / sqrt(in) as in peft.
      rank: of the products.
      pattern: a regular expression for whole paths of dense layers: ".*attention/(query|value)".
      alpha: the product counts alpha / rank; by default twice the rank.

    Raises:
      ConfigError: the rank isn't positive, `pattern` isn't a regular expression, or it matches no kernel.
    """
    if rank < 1:
        raise ConfigError(f"lora.rank: expected at least 1, got {rank}")
    try:
        chosen = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"lora.pattern: {pattern!r} isn't a regular expression: {error}") from error
    alpha = 2 * rank if alpha is None else alpha
    leaves = trees.flatten(params)
    kernels = {name.removesuffix("/kernel"): leaf for name, leaf in leaves.items() if name.endswith("/kernel")}
    found = {module: kernel for module, kernel in sorted(kernels.items()) if chosen.fullmatch(module)}
    if not found:
        raise ConfigError(f"lora.pattern: {pattern!r} matches no layer with a kernel: {nearest(pattern, kernels)}")
    new: dict[str, jax.Array] = {}
    for number, (module, kernel) in enumerate(found.items()):
        if kernel.ndim not in (2, 3):
            raise ConfigError(
                f"lora.pattern: {module} isn't a dense layer, its kernel has the shape {tuple(kernel.shape)}; "
                "only dense layers can have adapters"
            )
        *stacked, rows, columns = kernel.shape
        bound = 1 / math.sqrt(rows)
        draw = jax.random.fold_in(key, number)
        new[f"{module}/lora_a"] = jax.random.uniform(draw, (*stacked, rows, rank), kernel.dtype, -bound, bound)
        new[f"{module}/lora_b"] = jnp.zeros((*stacked, rank, columns), kernel.dtype)
        new[f"{module}/lora_scale"] = jnp.full(stacked, alpha / rank, kernel.dtype)
    return trees.inserted(params, new)


def without(params: PyTree) -> PyTree:
    """Returns parameters without adapters: as they were before `add`, even if they have been trained since."""
    return {
        name: without(branch) if isinstance(branch, dict) else branch
        for name, branch in params.items()
        if name not in LEAVES
    }


def merge(params: PyTree) -> PyTree:
    """Returns parameters in whose kernels the products are, without adapters; the model gives the same with them."""
    merged = {}
    for name, branch in params.items():
        if isinstance(branch, dict):
            merged[name] = merge(branch)
        elif name == "kernel" and "lora_a" in params:
            scale = params["lora_scale"][..., None, None]
            merged[name] = branch + (scale * (params["lora_a"] @ params["lora_b"])).astype(branch.dtype)
        elif name not in LEAVES:
            merged[name] = branch
    return merged


def frozen(train: str | None = None) -> str:
    """Returns the pattern with which `deepmodels.training.freeze.freeze` leaves only adapters to train.

    Args:
      train: a regular expression for whole paths of what trains besides, such as "head/.*".
    """
    trains = _LEARNED if train is None else f"{_LEARNED}|{train}"
    return f"(?!({trains})$).*"


def adapting(params: PyTree) -> contextlib.AbstractContextManager:
    """Returns a context in which dense layers that have adapters among these parameters use them.

    Raises:
      ConfigError: on leaving it, if the model used some of the adapters and others not: their layers aren't dense.
    """
    suffix = "/lora_a"
    names = {tuple(name.removesuffix(suffix).split("/")) for name in trees.flatten(params) if name.endswith(suffix)}
    return _adapting(names) if names else contextlib.nullcontext()


@contextlib.contextmanager
def _adapting(expected: set[tuple[str, ...]]) -> Iterator[None]:
    used: set[tuple[str, ...]] = set()

    def call(function: Callable, arguments: tuple, named: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        y = function(*arguments, **named)
        if isinstance(module, nn.Dense) and context.method_name == "__call__" and module.path in expected:
            used.add(module.path)
            a, b, scale = (module.get_variable("params", leaf) for leaf in LEAVES)
            x = arguments[0].astype(y.dtype)
            y += scale.astype(y.dtype) * ((x @ a.astype(y.dtype)) @ b.astype(y.dtype))
        return y

    with nn.intercept_methods(call):
        yield
    if used and (left := sorted("/".join(path) for path in expected - used)):
        raise ConfigError(f"lora.pattern: {left[0]} isn't a dense layer that the model calls; it can't have an adapter")
