"""The same weights in torch and here: logits, gradients, running statistics, and the way back.

Logits are compared in float32. Gradients and training are compared in float64: one rounding that moves a value across
the kink of a ReLU, or past its neighbour under a maximum, changes a gradient by percents, and a batch normalisation
over few values multiplies rounding errors; in float64 neither happens and the comparison can be a sharp one.
"""

import copy
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import oracles
from flax import linen as nn
from oracles import enliven

from deepmodels import trees
from deepmodels.weights.convert import Rules, from_ours, to_ours

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of the largest value


def shrunk(create: Callable, *replaced: tuple[str, Callable]):
    """A torch module in which some layers are replaced by smaller ones, before anything is drawn; randomised.

    Dense layers of thousands of units take seconds to draw, gigabytes in float64, and test nothing more.

    Args:
      create: makes the module.
      replaced: paths inside the module, and functions that make the layers to be there.
    """
    import torch

    with torch.device("meta"):
        module = create()
        for path, layer in replaced:
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, layer())
    return enliven(module.to_empty(device="cpu"))


def pixels(batch: int, size: int) -> np.ndarray:
    """Random images (B, size, size, 3)."""
    return np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)


def converted(model: nn.Module, module, rules: Rules, images: np.ndarray) -> dict[str, Any]:
    """Our variables with a torch module's values."""
    abstract = jax.eval_shape(model.init, jax.random.key(0), images)
    return to_ours(oracles.state_dict(module), rules, abstract)


def check_logits(model: nn.Module, variables: dict[str, Any], module, images: np.ndarray) -> None:
    """Checks the output in evaluation, in float32."""
    _assert_close("logits", jax.jit(model.apply)(variables, images), oracles.evaluate(module, images))


def check_gradient(model: nn.Module, variables: dict[str, Any], module, images: np.ndarray) -> None:
    """Checks the output in evaluation and the gradient of a random sum of it by the images, in float64."""
    module, (variables, images) = copy.deepcopy(module).double(), _double((variables, images))
    theirs = oracles.evaluate(module, images)
    cotangent = np.random.default_rng(1).normal(size=theirs.shape)

    @jax.jit
    def output_and_gradient(variables, images, cotangent):
        output, pull_back = jax.vjp(lambda images: model.apply(variables, images), images)
        return output, pull_back(cotangent)[0]

    with jax.enable_x64(True):
        output, gradient = output_and_gradient(variables, images, cotangent)
    _assert_close("output", output, theirs)
    _assert_close("gradient", gradient, oracles.input_gradient(module, images, cotangent))


def check_training(
    model: nn.Module,
    variables: dict[str, Any],
    module,
    images: np.ndarray,
    rules: Rules,
    outputs: Callable[[Any], Any] = lambda theirs: theirs,
) -> None:
    """Checks the outputs with `train` and without dropout, and the running statistics after it, in float64.

    Args:
      model: ours, with dropout rates of 0.
      variables: the module's, converted.
      module: theirs.
      images: (B, H, W, C).
      rules: the table.
      outputs: turns what torch returns into what ours does.
    """
    module, (variables, images) = copy.deepcopy(module).double(), _double((variables, images))
    theirs = outputs(oracles.train(module, images))
    with jax.enable_x64(True):
        train = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))
        ours, updated = train(variables, images)
        abstract = jax.eval_shape(lambda v: v, variables)
    for i, (our, their) in enumerate(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)):
        _assert_close(f"training output {i}", our, their)
    statistics = trees.flatten(to_ours(oracles.state_dict(module), rules, abstract))
    for name, value in trees.flatten(updated).items():
        _assert_close(name, value, statistics[name])


def check_written_back(variables: dict[str, Any], module, rules: Rules) -> None:
    """Checks that what is written for torch loads strictly and is bitwise what was read."""
    import torch

    written = from_ours(variables, rules)
    state = module.state_dict()
    counters = {name: tensor for name, tensor in state.items() if "num_batches_tracked" in name}
    for name in state.keys() - counters.keys():
        np.testing.assert_array_equal(written[name], state[name].numpy())
    module.load_state_dict({name: torch.from_numpy(x) for name, x in written.items()} | counters, strict=True)


def _double(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def _assert_close(what: str, ours: Any, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype
    scale = np.abs(theirs).max()
    assert scale > 1e-3, "or else there would be nothing to compare"
    error = np.abs(np.asarray(ours) - theirs).max() / scale
    assert error <= TOLERANCE[theirs.dtype.name], f"{what}: differs by {error:.1e} of its largest value, {scale:.2g}"
