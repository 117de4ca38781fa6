"""From a config to what it names: mesh, model, objective, optimizer, data, and the shapes and places of the state."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from deepmodels import augment, data, models, objectives, parallel
from deepmodels import config as configs
from deepmodels.errors import ConfigError
from deepmodels.evaluation import evaluate
from deepmodels.training.optimizer import averaged_params, make_optimizer
from deepmodels.training.step import TrainState, bind, cast_floats, dtype_of, master_dtype

PIPELINE = ("name", "batch_size", "threads", "mean", "std", "crop_size", "validation_size")


class Experiment(NamedTuple):
    """A config, made into the things it names."""

    config: ConfigDict
    mesh: Mesh
    model: nn.Module
    objective: Callable  # (forward, batch, key) -> (loss, (metrics, variables))
    prepare: Callable  # (batch, key or None) -> batch, on the device
    optimizer: optax.GradientTransformationExtraArgs
    schedule: Callable  # step -> learning rate
    sources: dict[str, data.Source]  # by split: train, test, and validation where there is one
    class_names: tuple[str, ...]
    abstract: TrainState  # shapes, dtypes and shardings
    init: Callable[[], TrainState]  # makes the first state, each leaf where it belongs


def make(config: Mapping[str, Any]) -> Experiment:
    """Returns the experiment that a config describes; nothing is compiled and no array is made yet.

    Raises:
      ConfigError: a name, an argument or a size in the config is wrong, or its parts don't fit together.
      DataError: the data set is missing or damaged.
      ShapeError: the model can't take the data's records.
    """
    config = configs.complete(config)
    mesh = parallel.make_mesh(config.mesh)
    parallel.check_batch_size(config.data.batch_size, mesh, config.accumulate)
    model = models.create(**config.model)
    objective = objectives.create(**config.objective)
    optimizer, schedule = make_optimizer(config.optimizer, config.steps)
    dtype = master_dtype(config.precision)
    sources, class_names = _sources(config)
    _check_classes(config, model, class_names)
    prepare = make_prepare(
        config.data.get("mean", 0.0),
        config.data.get("std", 1.0),
        augment.create(config.augment),
        config.data.get("crop_size"),
    )

    def init_state() -> TrainState:
        key = jax.random.key(config.seed)
        example = prepare({"image": jnp.zeros((1, *record["image"].shape), record["image"].dtype)}, None)
        example = cast_floats(example, jnp.dtype(jnp.float32))  # as Linen makes parameters
        variables = dict(cast_floats(model.init(key, example["image"]), dtype))
        params = variables.pop("params", {})
        return TrainState(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params))

    record = sources["train"][0]
    shapes = jax.eval_shape(init_state)
    if not jax.tree.leaves(shapes.params):
        raise ConfigError(f"model {config.model.name!r} has no parameters to train")
    whole = NamedSharding(mesh, PartitionSpec())
    places = parallel.shardings(shapes.params, mesh)
    shardings = TrainState(
        whole,
        places,
        parallel.shardings_like(shapes.variables, shapes.params, places, mesh),
        parallel.shardings_like(shapes.opt_state, shapes.params, places, mesh),
    )
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )
    return Experiment(
        config, mesh, model, objective, prepare, optimizer, schedule, sources, class_names, abstract,
        jax.jit(init_state, out_shardings=shardings),
    )  # fmt: skip


def make_prepare(mean, std, augmentation: Callable, crop_size: int | None = None) -> Callable:
    """Returns `prepare(batch, key) -> batch`: augments the batch if there is a key, then normalises the images.

    Args:
      mean: one number, or one for each channel, of pixels scaled to [0, 1].
      std: likewise.
      augmentation: `(key, batch) -> batch`.
      crop_size: without a key, height and width of the centre that the model sees; None for the whole image.
    """

    def prepare(batch, key):
        if "image" not in batch:
            return batch
        if key is not None:
            batch = augmentation(jax.random.fold_in(key, 1), batch)
        elif crop_size is not None:
            batch = batch | {"image": augment.center_crop(batch["image"], crop_size)}
        return batch | {"image": augment.normalize(batch["image"], mean, std)}

    return prepare


def train_batches(x: Experiment, start_step: int) -> Iterator[dict[str, np.ndarray]]:
    """Returns this process's share of the endless training batches, from `start_step` on."""
    return data.batches(
        x.sources["train"],
        batch_size=x.config.data.batch_size,
        seed=x.config.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=x.config.data.get("threads"),
    )


def make_evaluation(x: Experiment) -> Callable[[str, TrainState], dict[str, float]]:
    """Returns `evaluate(split, state) -> {"split/metric": mean}`, compiled at its first use."""

    step = jax.jit(_evaluation_step(x))

    def evaluate_on(split: str, state: TrainState) -> dict[str, float]:
        params = averaged_params(state.params, state.opt_state)
        metrics = evaluate(step, params, state.variables, evaluation_batches(x, split))
        return {f"{split}/{name}": value for name, value in metrics.items()}

    return evaluate_on


def metric_names(x: Experiment) -> list[str]:
    """Returns the names of the objective's metrics, by tracing an evaluation abstractly."""
    record = x.sources["train"][0]
    batch = {name: jax.ShapeDtypeStruct((1, *np.shape(v)), np.asarray(v).dtype) for name, v in record.items()}
    return list(jax.eval_shape(_evaluation_step(x), x.abstract.params, x.abstract.variables, batch))


def _evaluation_step(x: Experiment) -> Callable:
    def step(params, variables, batch):
        params, batch = cast_floats((params, x.prepare(batch, None)), dtype_of(x.config.precision))
        return x.objective(bind(x.model, params, variables, train=False), batch, None)[1][0]

    return step


def make_prediction(x: Experiment) -> Callable:
    """Returns `step(params, variables, batch) -> class probabilities (B, K)`, jitted."""

    @jax.jit
    def step(params, variables, batch):
        params, batch = cast_floats((params, x.prepare(batch, None)), dtype_of(x.config.precision))
        logits, _ = bind(x.model, params, variables, train=False)(batch["image"])
        return jax.nn.softmax(logits.astype(jnp.float32))

    return step


def evaluation_batches(x: Experiment, split: str) -> Iterator[dict[str, jax.Array]]:
    """Returns one pass over a split in placed, padded batches."""
    return parallel.prefetch(
        data.evaluation_batches(
            x.sources[split],
            batch_size=x.config.data.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=x.config.data.get("threads"),
        ),
        partial(parallel.place, mesh=x.mesh),
    )


def _sources(config: ConfigDict) -> tuple[dict[str, data.Source], tuple[str, ...]]:
    section = {key: value for key, value in config.data.items() if key not in PIPELINE}
    size = config.data.get("validation_size", 0)
    splits = ("train", "test", *(["validation"] if size else []))
    sources = {split: data.create(config.data.name, split=split, validation_size=size, **section) for split in splits}
    names = data.DATASETS[config.data.name].class_names or getattr(sources["train"], "class_names", None)
    return sources, tuple(names or ())


def _check_classes(config: ConfigDict, model: nn.Module, class_names: tuple[str, ...]) -> None:
    classes = getattr(model, "num_classes", None)
    if classes is not None and classes < len(class_names):
        raise ConfigError(
            f"config.model.num_classes={classes}, but the data set {config.data.name!r} has {len(class_names)} classes"
        )
