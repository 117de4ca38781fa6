"""Models with weights from a file: of this library, of another one, or of the hub."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from deepmodels import models, trees
from deepmodels.errors import ConfigError, WeightsError, unknown
from deepmodels.parallel.rules import shardings
from deepmodels.trees import PyTree
from deepmodels.weights import HEADS, OURS, detect, files, folder, gguf_file, hub, peft, table
from deepmodels.weights.convert import Rules, from_ours, is_fresh, same_names, to_ours
from deepmodels.weights.diffusers_config import CLASS
from deepmodels.weights.quantised import dequantised

_WEIGHTS_OF_DIFFUSERS = "diffusion_pytorch_model"
HEAD = "(.*/)?head/.*"  # what depends on the number of classes, in every model


def load(
    name: str,
    weights: str | os.PathLike,
    *,
    source: str | None = None,
    revision: str | None = None,
    sha256: str | None = None,
    cast: bool = False,
    fresh: str | None = None,
    **overrides: Any,
) -> tuple[nn.Module, PyTree]:
    """Returns a model and its variables, read from a file or folder or from the hub.

        model, variables = deepmodels.load("resnet50", weights="timm/resnet50.a1_in1k")
        model, variables = deepmodels.load("resnet50", "resnet50.pth", num_classes=10, fresh="head/.*")
        logits = model.apply(variables, images)

    Args:
      name: as `create` takes it.
      weights: a path (`deepmodels.weights.files.read` says of what), or "owner/name" on the hub; a path wins.
      source: the library that named the arrays, a key of `deepmodels.weights.TABLES`, or "deepmodels" for our own
        names; if not given, the one that knows the most of the names.
      revision: a branch, tag or commit on the hub.
      sha256: of the weights, as loading from the hub prints it and `deepmodels.weights.hub.digest` returns it; others
        are refused.
      cast: whether floats of another precision are converted to the model's; otherwise they are an error.
      fresh: a regular expression of parameters that are initialised instead of loaded: "head/.*".
      overrides: arguments of the model, as `create` takes them.

    Raises:
      WeightsError: the weights aren't there, can't be read, or don't fit the model; everything wrong is listed.
      ConfigError: the model, one of its arguments or the source is unknown.
    """
    model = models.create(name, **overrides)
    variables = _abstract(name, model)
    if fresh is not None:
        variables = _initialise(name, model, variables, fresh)
    arrays, rules = _read(name, variables, weights, source, revision, sha256)
    variables = to_ours(arrays, rules, variables, cast=cast, fresh=fresh)
    return model, jax.tree.map(jnp.asarray, variables)


def read_leaves(
    name: str,
    variables: PyTree,
    weights: str | os.PathLike,
    *,
    source: str | None = None,
    revision: str | None = None,
    sha256: str | None = None,
    cast: bool = False,
    fresh: str | None = None,
) -> dict[str, np.ndarray]:
    """Returns what a model with these variables takes from a file or from the hub, by path: "params/conv1/kernel".

    Args:
      name: the model's, as `create` takes it.
      variables: its variables, or their shapes and dtypes.
      weights, source, revision, sha256, cast: as `load` takes them.
      fresh: as `load` takes it. If it isn't given and the weights don't fit as a whole, the head (`HEAD`) is left out,
        as one for other classes has to be; all the rest must fit.

    Raises:
      WeightsError: the weights aren't there, can't be read, or don't fit the model; everything wrong is listed.
      ConfigError: the source is unknown, or `fresh` isn't a regular expression.
    """
    if fresh is not None:
        try:
            re.compile(fresh)
        except re.error as error:
            raise ConfigError(f"fresh: {fresh!r} isn't a regular expression: {error}") from error
    arrays, rules = _read(name, variables, weights, source, revision, sha256)
    try:
        found = to_ours(arrays, rules, variables, cast=cast, fresh=fresh)
    except WeightsError:
        if fresh is not None:
            raise
        fresh = HEAD
        found = to_ours(arrays, rules, variables, cast=cast, fresh=fresh)
    leaves = {leaf: array for leaf, array in trees.flatten(found).items() if not is_fresh(leaf, fresh)}
    if not leaves:
        raise WeightsError(f"{os.fspath(weights)}: {name!r} takes nothing from it, all of it is {fresh!r}")
    return leaves


def load_folder(
    path: str | os.PathLike, *, cast: bool = False, dtype: str = "float32", mesh: Mesh | None = None
) -> tuple[nn.Module, PyTree]:
    """Returns a model of the sizes that a folder's config.json says, and its variables from the weights beside it.

    `model, variables = load_folder("SmolLM2-135M/")`, for the families in `deepmodels.weights.folder.LAYOUTS`; the
    weights are one file or shards with an index. Safetensors are read one array after the other, so that in memory is
    what has been placed and one array more.

    A file of llama.cpp is read likewise: `load_folder("SmolLM2-135M-Instruct.Q4_1.gguf")`, with the extra `gguf`.

    Args:
      path: the folder, or a `.gguf` file.
      cast: whether floats of another precision than `dtype` are converted.
      dtype: of the parameters: "float32", in which they train, or "bfloat16", which takes half.
      mesh: where the parameters go, by `deepmodels.parallel.shardings`; by default all to one device.

    Raises:
      WeightsError: the folder hasn't both, config.json names an unknown type or architecture or says what ours can't
        be, a shard is missing, the weights don't fit, or its vocabulary is larger than the embedding.
      ConfigError: the dtype is none of the two, or the mesh can't hold a parameter.
    """
    if dtype not in ("float32", "bfloat16"):
        raise unknown("dtype", str(dtype), ("float32", "bfloat16"))
    place = Path(path)
    if place.suffix == ".gguf":
        arrays, described = gguf_file.describe(place)
    else:
        config, arrays = dequantised(folder.read_config(place), files.read(place, stored=True))
        described = folder.describe(config, arrays)
        if "vocab_size" in described.arguments:
            folder.check_vocabulary(place, described.arguments["vocab_size"])
    model = _FOLDER_CLASSES[described.family](**described.arguments)
    abstract = jax.eval_shape(model.init, jax.random.key(0), *_shortest(model))
    return model, _placed(arrays, described.rules, abstract, cast, dtype, mesh)


def _placed(
    arrays: Mapping[str, Any], rules: Rules, abstract: PyTree, cast: bool, dtype: str, mesh: Mesh | None
) -> PyTree:
    """The variables as JAX's arrays, leaf by leaf."""
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), abstract["params"])
    abstract = dict(abstract) | {"params": params}
    if mesh is None:
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        where = jax.tree.map(lambda _: one, abstract)
    else:
        where = shardings(abstract, mesh)
    return to_ours(arrays, rules, abstract, cast=cast, shardings=where)


def save_folder(
    path: str | os.PathLike,
    model: nn.Module,
    variables: PyTree,
    *,
    special: Mapping[str, int] | None = None,
    largest_file: int = 5 * 10**9,
) -> None:
    """Writes a model as a folder that transformers or diffusers loads: config.json, and the weights or their parts.

    Args:
      path: the folder; it is made, and files of these names in it are replaced.
      model: of a family in `deepmodels.weights.folder.LAYOUTS`.
      variables: its parameters, each in its own precision.
      special: ids that config.json has by role, as `Tokenizer.special` has them: {"bos": 1, "eos": 2}. The tokenizer
        itself is written by its `save`.
      largest_file: bytes of a file, above which there are several.

    Raises:
      WeightsError: transformers has no such model, or the folder can't be written to.
    """
    config, rules = config_of(model)
    for role in ("bos", "eos", "pad"):
        if role in (special or {}):
            config[f"{role}_token_id"] = special[role]
    arrays = from_ours(variables, rules)
    if any(array.dtype == jnp.bfloat16 for array in arrays.values()):
        config["dtype"] = "bfloat16"
    place = Path(path)
    _write_config(place / folder.CONFIG, config)
    files.write_parts(place, _WEIGHTS_OF_DIFFUSERS if CLASS in config else "model", arrays, largest_file)


def save_adapter(path: str | os.PathLike, model: nn.Module, params: PyTree) -> None:
    """Writes the adapters among parameters as a folder that peft loads, adapter_config.json and the weights beside it.

    Args:
      path: the folder; it is made, and files of these names in it are replaced.
      model: of a family in `deepmodels.weights.folder.LAYOUTS`.
      params: with adapters, see `deepmodels.training.lora`.

    Raises:
      WeightsError: there are none, transformers has no such model, or the folder can't be written to.
    """
    arrays, config = peft.from_ours(params, config_of(model)[1])
    place = Path(path)
    _write_config(place / peft.CONFIG, config)
    files.write(place / peft.WEIGHTS, arrays, {"format": "pt"})


def load_adapter(path: str | os.PathLike, model: nn.Module, params: PyTree) -> PyTree:
    """Returns a model's parameters with the adapters of peft's folder.

    `deepmodels.training.lora.adapting` lets the model use them, and `merge` there adds them to the kernels.

    Args:
      path: the folder with adapter_config.json and adapter_model.safetensors.
      model: of a family in `deepmodels.weights.folder.LAYOUTS`.
      params: its parameters, without adapters.

    Raises:
      WeightsError: the folder hasn't both, they aren't of LoRA, or they don't fit the model.
    """
    place = Path(path)
    config = folder.read_config(place, peft.CONFIG)
    leaves = peft.to_ours(files.read(place / peft.WEIGHTS), config, params, config_of(model)[1])
    return trees.inserted(params, {name: jnp.asarray(leaf) for name, leaf in leaves.items()})


def config_of(model: nn.Module) -> tuple[dict[str, Any], Rules]:
    """Returns what the config.json of transformers or diffusers says of a model, and the table of its weights.

    Raises:
      WeightsError: neither has such a model.
    """
    file = type(model).__module__.rpartition(".")[2]
    family = next((name for name, cls in _FOLDER_CLASSES.items() if type(model) is cls), file)
    return folder.config_of(family, {name: getattr(model, name) for name in type(model).__dataclass_fields__})


def _write_config(path: Path, config: Mapping[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise WeightsError(f"{path.parent} can't be written to: {error}") from error


_FOLDER_CLASSES = {
    "autoencoder_kl": models.autoencoder_kl.AutoencoderKL,
    "bert": models.bert.Bert,
    "clip": models.clip.CLIP,
    "clip_text": models.clip.CLIPText,
    "conditional_unet": models.diffusion.ConditionalUNet,
    "ddpm": models.diffusion.DDPM,
    "deepseek": models.deepseek.DeepSeek,
    "gpt": models.gpt.GPT,
    "llama": models.llama.Llama,
    "t5": models.t5.T5,
    "vit": models.vit.ViT,
}


def _shortest(model: nn.Module) -> list[jax.Array]:
    """Inputs as small as a model takes."""
    if isinstance(model, models.diffusion.DiffusionUNet | models.autoencoder_kl.AutoencoderKL):
        side = 2 ** (len(model.channels) - 1)
        inputs = [jnp.zeros((1, side, side, model.in_channels))]
        if isinstance(model, models.autoencoder_kl.AutoencoderKL):
            return inputs
        inputs += [jnp.zeros((1,), jnp.int32)]
        if isinstance(model, models.diffusion.ConditionalUNet):
            inputs += [jnp.zeros((1, 1, model.context_size))]
        return inputs + ([jnp.zeros((1, model.vector_size))] if model.vector_size else [])
    images = [jnp.zeros((1, model.image_size, model.image_size, 3))] if hasattr(model, "image_size") else []
    if isinstance(model, models.vit.ViT):
        return images
    return images + [jnp.zeros((1, 1), jnp.int32)] * (2 if isinstance(model, models.t5.T5) else 1)


class Converted(NamedTuple):
    """What `convert` wrote: numbers of tensors and of their elements, and the SHA-256 of the file or folder."""

    tensors: int
    elements: int
    sha256: str


def convert(
    name: str,
    weights: str | os.PathLike,
    path: str | os.PathLike,
    *,
    source: str = "torchvision",
    cast: bool = False,
    **overrides: Any,
) -> Converted:
    """Writes a model's weights in another format, after checking that they fit the model.

    Args:
      name: as `create` takes it.
      weights: as `load` takes it.
      path: where to. A `.safetensors` file has the names of `source`, for its library to load; a `.npz` file and a
        path without suffix, a folder of orbax, have ours.
      source: the library whose names a `.safetensors` file gets, a key of `deepmodels.weights.TABLES`, or "deepmodels".
      cast: as in `load`.
      overrides: arguments of the model, as `create` takes them.

    Raises:
      WeightsError: the weights can't be read, don't fit the model, or can't be written.
      ConfigError: the model, one of its arguments or the source is unknown.
    """
    path = Path(path)
    theirs = path.suffix == ".safetensors"
    model = models.create(name, **overrides)
    rules = _rules(source if theirs else OURS, name, _abstract(name, model))  # before anything slow
    _, variables = load(name, weights, cast=cast, **overrides)
    arrays = from_ours(variables, rules)
    files.write(path, arrays, {"format": "pt"})  # without which the libraries of torch refuse a file
    return Converted(len(arrays), trees.count(variables), files.sha256(path))


def _read(
    name: str,
    variables: PyTree,
    weights: str | os.PathLike,
    source: str | None,
    revision: str | None,
    sha256: str | None,
) -> tuple[dict[str, np.ndarray], Rules]:
    """The arrays of a file or of the hub, and the table of their names."""
    place = Path(hub.find(os.fspath(weights), revision, sha256))
    if place.suffix == ".gguf":
        arrays, described = gguf_file.describe(place)
        return arrays, described.rules
    arrays = files.read(place)
    source = source or detect(arrays, name, models.MODELS[name].family)
    return arrays, _rules(source, name, variables)


def _rules(source: str, name: str, variables: PyTree) -> Rules:
    family = models.MODELS[name].family
    return (*same_names(variables), *HEADS.get(family, ())) if source == OURS else table(source, name, family)


def _abstract(name: str, model: nn.Module) -> PyTree:
    return jax.eval_shape(model.init, jax.random.key(0), *_zeros(name))


def _initialise(name: str, model: nn.Module, variables: PyTree, fresh: str) -> PyTree:
    """`variables` with initial values for the leaves that are fresh; nothing else of the model is compiled."""

    @jax.jit
    def initial(key):
        leaves = trees.flatten(model.init(key, *_zeros(name)))
        return {leaf: value for leaf, value in leaves.items() if is_fresh(leaf, fresh)}

    values = initial(jax.random.key(0))
    return trees.map_named(lambda leaf, shape: values.get(leaf, shape), variables)


def _zeros(name: str) -> list[jax.Array]:
    """Inputs of the model, of a batch of one."""
    return [jnp.zeros((1, *spec.shape), spec.dtype) for spec in models.MODELS[name].inputs.values()]
