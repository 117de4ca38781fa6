"""The same weights in torch and here, for models of tokens: outputs, gradients of the parameters, and the way back."""

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import oracles
from comparison import enliven
from flax import linen as nn

from deepmodels import trees
from deepmodels.weights import files
from deepmodels.weights.convert import Rules, from_ours, to_ours

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of the largest value
LENGTHS = (7, 4, 1)  # of the texts in a padded batch


def lively(name: str, **config: Any):
    """A model of transformers with weights that keep the size of signals."""
    return enliven(oracles.transformers(name, **config))


def words(vocab_size: int, length: int = 7, seed: int = 0) -> np.ndarray:
    """Random tokens (3, length), none of them 0 or 1, which some models take for padding."""
    return np.random.default_rng(seed).integers(2, vocab_size, (len(LENGTHS), length)).astype(np.int32)


def padding(length: int = 7) -> np.ndarray:
    """The mask of texts of different lengths (3, length)."""
    return np.arange(length)[None] < np.array(LENGTHS)[:, None]


def saved(module, folder) -> dict[str, np.ndarray]:
    """The arrays of a model of transformers, from the folder it is saved to."""
    module.save_pretrained(folder)
    return files.read(folder)


def converted(model: nn.Module, arrays: dict[str, np.ndarray], rules: Rules, *inputs: Any) -> dict[str, Any]:
    """Our variables with these values."""
    return to_ours(arrays, rules, jax.eval_shape(model.init, jax.random.key(0), *inputs))


def tensors(arrays: Any) -> Any:
    """Arrays as torch's tensors, integers as those it indexes by."""
    import torch

    def tensor(x: np.ndarray):
        return torch.from_numpy(x.astype(np.int64) if x.dtype.kind == "i" else x)

    return jax.tree.map(tensor, arrays)


def assert_close(what: str, ours: Any, theirs: np.ndarray, tolerance: float | None = None) -> None:
    """Checks two arrays within the tolerance of their dtype, or another share of the largest value."""
    assert ours.dtype == theirs.dtype
    scale = np.abs(theirs).max()
    assert scale > 1e-3, "or else there would be nothing to compare"
    error = np.abs(np.asarray(ours) - theirs).max() / scale
    tolerance = TOLERANCE[theirs.dtype.name] if tolerance is None else tolerance
    assert error <= tolerance, f"{what}: differs by {error:.1e} of its largest value, {scale:.2g}"


def check_gradients(
    ours: Callable[[Any], jax.Array],
    variables: dict[str, Any],
    module,
    theirs: Callable[[Any], Any],
    rules: Rules,
    tolerance: float = TOLERANCE["float64"],
) -> None:
    """Checks the gradient of a random sum of the output by every parameter, in float64.

    Args:
      ours: our output from our variables.
      variables: the module's, converted.
      module: theirs.
      theirs: their output, a tensor, from the module.
      rules: the table; it is linear, so that it converts gradients too.
      tolerance: of the output, and of the gradients as a share of the largest of all.
    """
    import torch

    module = copy.deepcopy(module).double()
    output = theirs(module)
    cotangent = np.random.default_rng(1).normal(size=tuple(output.shape))
    output.backward(torch.from_numpy(cotangent))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        for buffer in module.buffers():  # statistics have none
            buffer.zero_()
    if hasattr(module, "save_pretrained"):  # names in transformers' files aren't always those in memory
        with tempfile.TemporaryDirectory() as place:
            grads = saved(module, place)
    else:
        grads = oracles.state_dict(module)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
        value, pull_back = jax.jit(lambda v: jax.vjp(ours, v))(variables)
        got = trees.flatten(jax.jit(pull_back)(cotangent)[0])
        want = trees.flatten(to_ours(grads, rules, jax.eval_shape(lambda v: v, variables)))
        want = {name: leaf for name, leaf in want.items() if name.startswith("params/")}
    assert_close("output", value, output.detach().numpy(), tolerance)
    largest = max(np.abs(leaf).max() for leaf in want.values())
    for name, leaf in want.items():
        error = np.abs(np.asarray(got[name]) - leaf).max() / largest
        assert error <= tolerance, f"gradient of {name}: differs by {error:.1e} of the largest"


def check_written(variables: dict[str, Any], rules: Rules, module, folder) -> None:
    """Checks that transformers loads what is written, without a key too many or too few, and that it is the same."""
    module.config.save_pretrained(folder)
    files.write(folder / "model.safetensors", from_ours(variables, rules), {"format": "pt"})
    again, said = type(module).from_pretrained(folder, output_loading_info=True)
    assert not any(said.values()), said
    state = again.state_dict()
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(state[name].numpy(), tensor.numpy())
