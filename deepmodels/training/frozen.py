"""Networks that don't train, and that a run looks through: the judge of its pictures, the eye of its loss.

    frozen=dict(judge=dict(weights="runs/lenet5"))

Their arrays are a collection of the state's variables, "frozen", so that they lie on the mesh and go into checkpoints
as all else does; what else a network is, is a `Network`. An objective calls one by its name:

    maps, _ = forward(images, network="judge", layers=("conv1", "conv2"))

Gradients pass through to the images, but none reaches the network. A run that goes on reads no weights again.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import ScopeParamShapeError
from jax import Array
from ml_collections import ConfigDict

from deepmodels import loading, models, trees
from deepmodels.analysis.intermediates import before_head, hidden
from deepmodels.errors import ConfigError, ShapeError, WeightsError, nearest
from deepmodels.training.checkpoint import chosen_step, saved_steps
from deepmodels.training.workdir import read_config
from deepmodels.trees import PyTree

FROZEN = "frozen"  # the collection


class Network(NamedTuple):
    """A network that doesn't train, without its arrays."""

    name: str
    model: nn.Module
    inputs: dict[str, jax.ShapeDtypeStruct]  # as `models.Variant` has them
    scale: np.ndarray  # (C,), of a run's normalised pixels to the network's, by a multiplication
    offset: np.ndarray  # (C,), and an addition
    image_shape: tuple[int, int, int] | None  # of the pictures it is shown; None for as they are

    def show(self, images: Array) -> Array:
        """Returns a run's pictures (B, H, W, C) as the network is used to them: in size, channels and normalisation.

        Raises:
          ShapeError: their channels can't be made those of the network.
        """
        if self.image_shape is not None:
            *size, channels = self.image_shape
            if images.shape[-1] not in (1, channels):
                raise ShapeError(f"expected pictures of {channels} channels or of 1, got {images.shape[-1]}")
            if images.shape[1:3] != tuple(size):
                images = jax.image.resize(images, (images.shape[0], *size, images.shape[-1]), "bilinear")
            images = jnp.broadcast_to(images, (*images.shape[:-1], channels))
        for array in (self.scale, self.offset):
            if len(array) not in (1, images.shape[-1]):
                raise ShapeError(f"it is normalised for pictures of {len(array)} channels, got {images.shape[-1]}")
        scale, offset = (jnp.asarray(x.reshape(1, 1, 1, -1), images.dtype) for x in (self.scale, self.offset))
        return images * scale + offset

    def __call__(
        self, variables: PyTree, *inputs: Array, layers: Sequence[str] | None = None, **named: Array
    ) -> PyTree:
        """Returns what the network makes of inputs, in evaluation mode.

        Args:
          variables: its own.
          inputs: as its model takes them, but pictures as the run has them.
          layers: names as `deepmodels.analysis.intermediates.hidden` takes them, whose outputs are returned by name;
            None for the network's own.
          named: further arguments of the model.

        Raises:
          ConfigError: there is no such layer, or pictures don't fit the network.
        """
        with self._complaining():
            inputs = self._shown(inputs)
            if layers is None:
                return self.model.apply(variables, *inputs, **named)
            return hidden(self.model, variables, *inputs, layers=layers)

    def recognise(self, variables: PyTree, images: Array) -> tuple[Array, Array]:
        """Returns what the network's last layer sees of pictures, (B, D), and its class probabilities (B, K).

        Maps are averaged over their pixels.

        Args:
          variables: its own.
          images: (B, H, W, C), as the run has them.

        Raises:
          ConfigError: they don't fit the network.
        """
        with self._complaining():
            features, logits = before_head(self.model, variables, *self._shown((images,)))
        features = features.mean((1, 2)) if features.ndim == 4 else features.reshape(len(images), -1)
        return features, jax.nn.softmax(logits.reshape(len(images), -1))

    def init(self, key: Array, images: Array | None) -> PyTree:
        """Returns the network's variables as they are drawn at random.

        Args:
          key: of the draws.
          images: pictures of a run (B, H, W, C), if it has pictures.

        Raises:
          ConfigError: they don't fit the network.
        """
        if list(self.inputs) == ["images"] and images is not None:
            inputs = (images,)
        else:
            inputs = [jnp.zeros((1, *spec.shape), spec.dtype) for spec in self.inputs.values()]
        with self._complaining():
            variables = self.model.init(key, *self._shown(inputs))
        return {name: tree for name, tree in variables.items() if name not in ("losses", "intermediates")}

    @contextlib.contextmanager
    def _complaining(self) -> Iterator[None]:
        """A context whose errors say which network they are of, and what makes pictures fit it."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(f"config.frozen.{self.name}: {error}") from error
        except (ShapeError, ScopeParamShapeError) as error:
            what, *_ = str(error).split(" (https:")
            raise ConfigError(
                f"config.frozen.{self.name}: {what}; image_shape=(height, width, channels) there makes pictures what "
                "the network takes"
            ) from error

    def _shown(self, inputs: Sequence[Array]) -> list[Array]:
        return [self.show(x) if x.ndim == 4 and jnp.issubdtype(x.dtype, jnp.floating) else x for x in inputs]


def complete(sections: ConfigDict) -> None:
    """Writes into `config.frozen`, in place, a network's model, mean and deviation, as its run or its row says.

    So the config that a run keeps doesn't depend on other runs.

    Raises:
      ConfigError: a network's weights are of no run with a checkpoint, and its section doesn't say its model.
    """
    for name, section in sections.items():
        if section.model is not None:
            known = {}
            variant = models.MODELS.get(section.model.get("name"))
            if variant is not None and variant.preprocessing is not None:
                known = variant.preprocessing._asdict()
        elif section.weights is None:
            raise ConfigError(f"config.frozen.{name} needs weights=, the folder of a run, or model=, or both")
        else:
            known = _run_of(name, section.weights)
        with sections.unlocked():
            if section.model is None:
                section.model = known["model"]
            for key in ("mean", "std"):
                if section[key] is None and key in known:
                    section[key] = known[key]


def _run_of(name: str, weights: str) -> dict[str, Any]:
    """The model's section of the config of a run, and the mean and the deviation that it normalises by."""
    folder = _folder_of_run(weights)
    if folder is None:
        raise ConfigError(
            f"config.frozen.{name}: {weights!r} isn't the folder of a run with a checkpoint; weights from elsewhere "
            "need model=dict(name=...) beside them"
        )
    config = read_config(folder)
    section = config["data"]
    return {"model": config["model"], "mean": section.get("mean", 0.0), "std": section.get("std", 1.0)}


def _folder_of_run(weights: str) -> Path | None:
    """The folder of the run that weights are of: it, or that of one of its checkpoints."""
    path = Path(weights)
    for folder in (path, path.parent.parent):
        if saved_steps(folder) and (folder / "config.json").is_file():
            return folder
    return None


def networks(config: ConfigDict) -> dict[str, Network]:
    """Returns the networks of `config.frozen`, which is complete, by name.

    Raises:
      ConfigError: a model or one of its arguments is unknown.
    """
    data_mean, data_std = (_numbers(config.data.get(key, default)) for key, default in (("mean", 0.0), ("std", 1.0)))
    made = {}
    for name, section in config.frozen.items():
        try:
            model = models.create(**section.model.to_dict())
        except ConfigError as error:
            raise ConfigError(f"config.frozen.{name}.model: {error}") from error
        mean = data_mean if section.mean is None else _numbers(section.mean)
        std = data_std if section.std is None else _numbers(section.std)
        shape = None if section.image_shape is None else tuple(section.image_shape)
        if shape is not None and len(shape) != 3:
            raise ConfigError(f"config.frozen.{name}.image_shape: expected (height, width, channels), got {shape}")
        inputs = models.MODELS[section.model.name].inputs
        made[name] = Network(name, model, inputs, data_std / std, (data_mean - mean) / std, shape)
    return made


def _numbers(value: Any) -> np.ndarray:
    return np.atleast_1d(np.float64(value))


def chosen(of: Mapping[str, Network], name: str) -> Network:
    """Returns the network of that name.

    Raises:
      ConfigError: there is none.
    """
    if name not in of:
        hint = nearest(name, of) if of else f"say frozen=dict({name}=dict(weights=...)), the folder of a run"
        raise ConfigError(f"config.frozen has no network {name!r}: {hint}")
    return of[name]


def pretrained(config: ConfigDict, places: Mapping[str, PyTree]) -> dict[str, np.ndarray]:
    """Returns the arrays of the networks that have weights, by name: "frozen/judge/params/conv1/kernel".

    Args:
      config: with `frozen`, complete.
      places: the collection, abstractly.

    Raises:
      WeightsError: weights aren't there, can't be read, or don't fit their network.
      ConfigError: an argument is wrong.
    """
    leaves = {}
    for name, section in config.frozen.items():
        if section.weights is None:
            continue
        weights, folder = section.weights, _folder_of_run(section.weights)
        if folder == Path(weights):
            weights = str(folder / "checkpoints" / str(chosen_step(folder)))
        options = dict(source=section.source, revision=section.revision, sha256=section.sha256)
        options["cast"] = section.cast or config.precision == "float64"
        try:
            arrays = loading.read_leaves(section.model.name, places[name], weights, **options)
        except (WeightsError, ConfigError) as error:
            hint = ""
            if "don't fit the model" in str(error) and section.image_shape is None:
                hint = "; for pictures of other sizes than this run's there is image_shape=(height, width, channels)"
            raise type(error)(f"config.frozen.{name}: {error}{hint}") from error
        missing = trees.flatten(places[name]).keys() - arrays.keys()
        if missing:
            raise WeightsError(
                f"config.frozen.{name}: {weights} has no {', '.join(sorted(missing))} that fits; the model's "
                "num_classes has to be that of the weights, or 0 for no head, and the pictures of the size they are for"
            )
        leaves |= {f"{FROZEN}/{name}/{leaf}": array for leaf, array in arrays.items()}
    return leaves
