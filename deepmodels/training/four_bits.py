"""QLoRA: the kernels that adapters stand beside, and others that don't train, held in 4 bits.

Dettmers, Pagnoni, Holtzman & Zettlemoyer (2023), arXiv:2305.14314; the codes are those of qwix's "nf4" (extra `qlora`).

    params = lora.add(params, key, rank=8, pattern=".*attention/(query|value)")
    params, packed = four_bits.pack(params, ".*attention/.*|.*mlp/.*")
    with lora.adapting(params), four_bits.using(packed):
        logits = model.apply({"params": params, four_bits.COLLECTION: packed}, tokens)
    params = lora.merge(four_bits.unpack(params, packed))

Packed kernels are no parameters: they are a collection of their own, so that nothing differentiates, updates or decays
them. A layer's kernel is unpacked where the layer is called, in a scan one layer's at a time, and again in the backward
pass where the stack is rematerialised. A run's config has `lora=dict(..., quantize=pattern)`.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from deepmodels import trees
from deepmodels.errors import ConfigError, nearest
from deepmodels.trees import PyTree

COLLECTION = "four_bits"
BLOCK = 64  # weights along the inputs that share a scale, as in the paper
_TYPE = "nf4"


def pack(params: PyTree, pattern: str) -> tuple[PyTree, PyTree]:
    """Returns parameters without the kernels of some dense layers, and these kernels in 4 bits.

    "layers/attention/query/kernel" (..., in, out) becomes "layers/attention/query/codes" (..., in / 2, out) uint8, two
    neighbouring inputs in one number, the first in its lower half, and "layers/attention/query/scale"
    (..., in / 64, out), the largest magnitude of each block.

    Args:
      params: of a model. Dense layers can be packed, alone or stacked by a scan.
      pattern: a regular expression for whole paths of dense layers: ".*attention/.*".

    Raises:
      ConfigError: `pattern` isn't a regular expression, matches no kernel, or matches one that isn't of a dense layer
        or whose inputs aren't a multiple of 64; or qwix isn't installed.
    """
    try:
        chosen = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"lora.quantize: {pattern!r} isn't a regular expression: {error}") from error

    def split(branch: dict[str, Any], path: str) -> tuple[dict[str, Any], dict[str, Any]]:
        rest, packed = {}, {}
        for name, value in branch.items():
            if isinstance(value, dict):
                kept, moved = split(value, f"{path}/{name}" if path else name)
                rest |= {name: kept} if kept else {}
                packed |= {name: moved} if moved else {}
            elif name == "kernel" and chosen.fullmatch(path):
                packed |= _packed(path, value)
            else:
                rest[name] = value
        return rest, packed

    rest, packed = split(params, "")
    if not packed:
        kernels = [name.removesuffix("/kernel") for name in trees.flatten(params) if name.endswith("/kernel")]
        raise ConfigError(f"lora.quantize: {pattern!r} matches no layer with a kernel: {nearest(pattern, kernels)}")
    return rest, packed


def unpack(params: PyTree, packed: PyTree) -> PyTree:
    """Returns parameters with the kernels that are packed beside them, in the type of their scales.

    Args:
      params: as `pack` returns them, or changed since. Of abstract leaves, as `jax.eval_shape` makes them, the result
        is abstract, and lies where the codes do.
      packed: as `pack` returns them.
    """
    if not isinstance(packed, dict):
        return params
    if "codes" in packed:
        codes, scale = packed["codes"], packed["scale"]
        if not isinstance(codes, jax.ShapeDtypeStruct):
            return params | {"kernel": _kernel(codes, scale)}
        *stacked, half, columns = codes.shape
        kernel = jax.ShapeDtypeStruct((*stacked, 2 * half, columns), scale.dtype, sharding=codes.sharding)
        return params | {"kernel": kernel}
    return params | {name: unpack(params.get(name, {}), branch) for name, branch in packed.items()}


def whole(variables: PyTree) -> PyTree:
    """Returns a model's variables, {"params": ..., ...}, with its packed kernels among the parameters; see `unpack`."""
    others = {name: tree for name, tree in variables.items() if name != COLLECTION}
    return others | {"params": unpack(variables["params"], variables.get(COLLECTION, {}))}


@contextlib.contextmanager
def using(packed: PyTree | None) -> Iterator[None]:
    """Calls dense layers whose kernels are packed with them; the packed ones are among the model's variables.

    Args:
      packed: as `pack` returns them, or None.
    """
    end = "/codes"
    names = {tuple(name.removesuffix(end).split("/")) for name in trees.flatten(packed or {}) if name.endswith(end)}

    def call(function: Callable, arguments: tuple, named: dict, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if not (isinstance(module, nn.Dense) and context.method_name == "__call__" and module.path in names):
            return function(*arguments, **named)
        kernel = _kernel(*(module.get_variable(COLLECTION, leaf) for leaf in ("codes", "scale")))
        bias = module.get_variable("params", "bias") if module.use_bias else None
        x = arguments[0]
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel.astype(x.dtype), bias, dtype=module.dtype)
        y = jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=module.precision)
        return y if bias is None else y + jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))

    with nn.intercept_methods(call) if names else contextlib.nullcontext():
        yield


def _packed(path: str, kernel: jax.Array) -> dict[str, jax.Array]:
    if kernel.ndim not in (2, 3) or kernel.shape[-2] % BLOCK:
        raise ConfigError(
            f"lora.quantize: {path} has a kernel of the shape {tuple(kernel.shape)}; what can be packed are kernels of "
            f"dense layers whose inputs are a multiple of {BLOCK}"
        )
    *stacked, inputs, columns = range(kernel.ndim)
    array = _qwix().quantize(kernel, _TYPE, channelwise_axes=(*stacked, columns), tiled_axes={inputs: BLOCK})
    codes = array.qvalue.astype(jnp.uint8)
    return {"codes": codes[..., 0::2, :] | (codes[..., 1::2, :] << 4), "scale": array.scale}


def _kernel(codes: jax.Array, scale: jax.Array) -> jax.Array:
    """(..., in / 2, out) codes and their scales as (..., in, out)."""
    qwix = _qwix()
    *stacked, half, columns = codes.shape
    both = jnp.stack([codes & 15, codes >> 4], axis=-2).reshape(*stacked, 2 * half, columns)
    return qwix.dequantize(qwix.QArray(qvalue=both.astype(jnp.uint4), scale=scale, qtype=_TYPE))


def _qwix() -> ModuleType:
    try:
        import qwix
    except ImportError as error:
        raise ConfigError("lora.quantize needs the package 'qwix': pip install 'deepmodels-jax[qlora]'") from error
    return qwix
