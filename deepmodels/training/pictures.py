"""Pictures of what a model makes, at every evaluation: samples, reconstructions, and ways through its codes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels import parallel
from deepmodels.data import gather
from deepmodels.models.mae import patchify, unpatchify
from deepmodels.models.vae import interpolate, traverse
from deepmodels.training.experiment import Experiment, call_model, evaluating
from deepmodels.training.step import cast_floats, dtype_of
from deepmodels.trees import PyTree

_SIDE = 8  # pictures in a row of a grid
_ROWED = 16  # codes at most of which each number is walked along
_GAP = 2  # pixels between pictures
_NAMES = {
    "reconstruction": "reconstructions",
    "fake": "translations",
    "patches": "fillings",
    "stylised": "stylised",
}


def make_pictures(x: Experiment) -> Callable[[PyTree, PyTree], dict[str, np.ndarray]] | None:
    """Returns `draw(params, variables) -> {name: uint8 (H, W, 1 or 3)}`; None for a model that makes no pictures.

    - "samples": 64 of them, of a model that has `sample`; row by row of one class where it is told the class.
    - "reconstructions": of 8 pictures of the test split in three rows: as they are, as the model saw them, and what it
      made of them, of a model whose output has a "reconstruction".
    - "translations": likewise, of a model whose output has a "fake" made of the picture it saw.
    - "stylised": in two rows, as they are and in the style, of a model whose output has them "stylised".
    - "fillings": in three rows again, of a model whose output has the "patches" that were hidden from it.
    - "walk": from the code of one of these to the next, and "traversal": along each number of the code of the first, of
      a model that decodes normal codes.

    The randomness of all is that of one fixed key, so that the pictures of two steps can be compared.
    """
    if "image" not in x.sources["test"][0]:
        return None
    records = gather(x.sources["test"], np.arange(min(_SIDE, len(x.sources["test"]))))
    outputs = jax.eval_shape(_outputs(x), x.abstract.params, x.abstract.variables, records)[1]
    samples = hasattr(type(x.model), "sample")
    if not samples and not isinstance(outputs, Mapping):
        return None
    codes = isinstance(outputs, Mapping) and "log_var" in outputs and outputs["log_var"].ndim == 2
    codes = codes and not x.model.num_classes
    parts = [name for name in _NAMES if isinstance(outputs, Mapping) and name in outputs]
    if "fake" in parts and (samples or "reconstruction" in parts):  # made of noise, or the same
        parts.remove("fake")
    if not samples and not parts:
        return None

    @jax.jit
    def made(params, variables, records):
        seen, outputs = _outputs(x)(params, variables, records)
        whole = x.prepare(records, None)["image"]
        small = jax.image.resize(seen[0], whole.shape, "nearest").astype(whole.dtype)
        pictures = {}
        for name in parts:
            if name == "patches":
                small, made = _filled(x, whole, outputs)
            else:
                made = outputs[name].astype(whole.dtype)
            shown = [whole, made] if name == "stylised" else [whole, small, made]  # which is told the whole
            pictures[_NAMES[name]] = jnp.concatenate(shown)
        bound = {"params": params, **variables}
        if samples:
            label = {}
            if getattr(x.model, "num_classes", 0):
                label = {"label": jnp.arange(_SIDE**2) // _SIDE % x.model.num_classes}
            pictures["samples"] = x.model.apply(bound, jax.random.key(0), _SIDE**2, method="sample", **label)
        if codes:
            mean = outputs["mean"]
            walks = [interpolate(mean[i], mean[(i + 1) % len(mean)], _SIDE) for i in range(len(mean))]
            rows = traverse(mean[0], 3.0, _SIDE)[:_ROWED]
            for name, code in {"walk": jnp.stack(walks), "traversal": rows}.items():
                flat = code.reshape(-1, code.shape[-1])
                pictures[name] = x.model.apply(bound, flat, method="decode")["reconstruction"]
        return pictures

    mean, std = (np.asarray(x.config.data.get(name, default)) for name, default in (("mean", 0.0), ("std", 1.0)))

    def draw(params: PyTree, variables: PyTree) -> dict[str, np.ndarray]:
        pictures = parallel.fetch(made(params, variables, records))
        return {name: grid(np.float64(rows) * std + mean, _SIDE) for name, rows in sorted(pictures.items())}

    return draw


def grid(pictures: np.ndarray, columns: int) -> np.ndarray:
    """Returns pictures side by side as one, row by row, with white between them: uint8 (H, W, C).

    Args:
      pictures: (N, h, w, C) of values in [0, 1]; what is outside is clipped.
      columns: pictures in a row; a last row may have fewer.
    """
    count, height, width, channels = pictures.shape
    rows, columns = -(-count // columns), min(columns, count)
    size = rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP
    page = np.full((*size, channels), 255, np.uint8)
    for number, picture in enumerate(np.round(pictures.clip(0, 1) * 255).astype(np.uint8)):
        top, left = number // columns * (height + _GAP), number % columns * (width + _GAP)
        page[top : top + height, left : left + width] = picture
    return page


def _filled(x: Experiment, whole: jax.Array, outputs: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Pictures without the patches that a masked autoencoder didn't see, and with what it makes of these."""
    true = patchify(whole, x.model.patch_size)
    made, hidden = outputs["patches"].astype(true.dtype), outputs["mask"][..., None] > 0
    if x.config.objective.get("normalize_patches", True):  # as the authors show them: with the true mean and contrast
        made = made * true.std(-1, ddof=1, keepdims=True) + true.mean(-1, keepdims=True)
    shape = whole.shape[1:]
    return tuple(unpatchify(jnp.where(hidden, new, true), *shape) for new in (jnp.zeros_like(true), made))


def _outputs(x: Experiment) -> Callable[[PyTree, PyTree, PyTree], tuple[tuple[jax.Array, ...], Any]]:
    """What the model sees of records, and what it makes of them."""

    def run(params, variables, records):
        params, batch = cast_floats((params, x.prepare(records, None)), dtype_of(x.config.precision))
        call = call_model(x.objective, evaluating(x, params, variables), batch)
        return call.inputs, call.result[0]

    return run
