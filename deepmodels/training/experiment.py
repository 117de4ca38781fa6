"""From a config to what it names: mesh, model, objective, optimizer, data, and the shapes and places of the state."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from deepmodels import augment, data, loading, models, objectives, parallel, tokenizers, trees, tuning
from deepmodels import config as configs
from deepmodels.errors import ConfigError, WeightsError
from deepmodels.evaluation import detection, evaluate, predict
from deepmodels.training import four_bits, frozen, lora, pipeline
from deepmodels.training.frozen import FROZEN, Network
from deepmodels.training.optimizer import EmaState, averaged_params, make_optimizer
from deepmodels.training.step import (
    AUGMENTATION,
    Adaptive,
    TrainState,
    bind,
    cast_floats,
    dtype_of,
    make_adversarial_step,
    make_train_step,
    master_dtype,
    of_model,
)
from deepmodels.trees import PyTree

PIPELINE = (
    "name",
    "batch_size",
    "threads",
    "mean",
    "std",
    "crop_size",
    "validation_size",
    "held_out",
    "unpaired",
    "style",
    "buckets",
    "skip_damaged",
)


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
    init: Callable[..., TrainState]  # makes the first state, or all of it but the leaves given, where they belong
    freeze: str | None  # pattern of the parameters that don't train
    frozen: dict[str, Network]  # other networks, by name, none of which trains


def make(config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None) -> Experiment:
    """Returns the experiment that a config describes; nothing is compiled and no array is made yet.

    Args:
      config: a mapping as an experiment's get_config() returns it.
      devices: of the mesh; all there are by default.

    Raises:
      ConfigError: a name, an argument or a size in the config is wrong, or its parts don't fit together.
      DataError: the data set is missing or damaged.
      ShapeError: the model can't take the data's records.
    """
    config = configs.complete(config)
    frozen.complete(config.frozen)
    networks = frozen.networks(config)
    mesh = parallel.make_mesh(config.mesh, devices)
    parts = pipeline.microbatches(config.microbatches, mesh)
    parallel.check_batch_size(config.data.batch_size, mesh, config.accumulate * config.critic_steps, parts)
    model = models.create(**config.model.to_dict())  # plain data: a model may have sections too
    _check_players(config, model)
    if mesh.shape["pipeline"] > 1 and (config.lora is not None or config.optimizer.get("freeze")):
        raise ConfigError(
            "config.mesh.pipeline: all parameters train in a pipeline, without config.lora and "
            "config.optimizer.freeze; fsdp divides the parameters of any model"
        )
    freeze = config.optimizer.get("freeze") if config.lora is None else lora.frozen(config.lora.train)
    optimizer, schedule = make_optimizer({**config.optimizer, "freeze": freeze}, config.steps)
    dtype = master_dtype(config.precision)
    sources, class_names = _sources(config, _bounds(config, model))
    _check_classes(config, model, class_names)
    _check_vocabulary(config, model, sources["train"])
    _check_call(config, model, sources["train"])
    objective = objectives.create(**_token_ids(config.objective.name, sources["train"]) | config.objective.to_dict())
    prepare = make_prepare(
        config.data.get("mean", 0.0),
        config.data.get("std", 1.0),
        augment.create(config.augment),
        config.data.get("crop_size"),
    )

    def init_state(given: Mapping[str, jax.Array] | None = None) -> TrainState:
        init_key = key = jax.random.key(config.seed)
        example = {name: jnp.zeros(array.shape, array.dtype) for name, array in _example(sources["train"]).items()}
        example = cast_floats(prepare(example, None), jnp.dtype(jnp.float32))  # as Linen makes parameters
        looked_through = {
            name: network.init(jax.random.fold_in(key, 2 + number), example.get("image"))
            for number, (name, network) in enumerate(networks.items())
        }
        others = bind(model, {}, {FROZEN: looked_through}, train=False, frozen=networks)

        def forward(*inputs, key=None, network=None, **named):
            if network is not None:
                return others(*inputs, network=network, **named)
            return model.init_with_output(init_key, *inputs, **named)

        _, variables = call_model(objective, forward, example).result
        variables = dict(variables) | ({FROZEN: looked_through} if networks else {})
        if given:
            variables = trees.map_named(lambda name, leaf: given.get(name, leaf), variables)
        variables = dict(cast_floats(variables, dtype))
        params = variables.pop("params", {})
        variables.pop("losses", None)  # the objective's, anew in each step
        if config.adaptive_augment is not None:
            variables[AUGMENTATION] = {"probability": jnp.zeros((), jnp.float32)}
        if config.lora is not None:
            adapters = {name: value for name, value in config.lora.items() if name not in ("train", "quantize")}
            params = lora.add(params, jax.random.fold_in(key, 1), **adapters)
            if config.lora.quantize is not None:
                params, variables[four_bits.COLLECTION] = four_bits.pack(params, config.lora.quantize)
        if hasattr(model, "players"):
            opt_state = {player: optimizer.init({player: params[player]}) for player in model.players}
        else:
            opt_state = optimizer.init(params)
        return TrainState(jnp.zeros((), jnp.int32), params, variables, opt_state)

    shapes = jax.eval_shape(init_state)
    if not jax.tree.leaves(shapes.params):
        raise ConfigError(f"model {config.model.name!r} has no parameters to train")
    parallel.check_axes(shapes.params, mesh, sources["train"][0])
    whole = NamedSharding(mesh, PartitionSpec())
    places = parallel.shardings(shapes.params, mesh)
    own = {name: tree for name, tree in shapes.variables.items() if name != FROZEN}
    shardings = TrainState(
        whole,
        places,
        parallel.shardings_like(own, shapes.params, places, mesh)
        | {name: parallel.shardings(tree, mesh) for name, tree in shapes.variables.items() if name == FROZEN},
        parallel.shardings_like(shapes.opt_state, shapes.params, places, mesh, over_data=config.shard_optimizer),
    )
    if config.offload_optimizer:
        shardings = shardings._replace(opt_state=_on_host(shardings.opt_state, shapes.opt_state))
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )
    return Experiment(
        config, mesh, model, objective, prepare, optimizer, schedule, sources, class_names, abstract,
        jax.jit(init_state, out_shardings=shardings, compiler_options=compiler_options(config)), freeze, networks,
    )  # fmt: skip


def _on_host(places: PyTree, shapes: PyTree) -> PyTree:
    """The places of an optimizer's state in the host's memory, but for moving averages, which evaluation reads."""
    if isinstance(places, dict):
        return {player: _on_host(places[player], shapes[player]) for player in places}
    kept = jax.tree.map(parallel.on_host, places, shapes)
    return kept._replace(params=places.params) if isinstance(places, EmaState) else kept


def pretrained(x: Experiment) -> dict[str, jax.Array]:
    """Returns the leaves that the config takes from files or the hub, each where it belongs; none without weights.

    They are those of `config.init` and of `config.frozen`, named with their collection, "params/stem_conv/kernel" or
    "frozen/judge/params/conv1/kernel", and are an argument of `x.init`.

    Raises:
      WeightsError: the weights aren't there, can't be read, or don't fit the model.
      ConfigError: an argument of `config.init` or of `config.frozen` is wrong.
    """
    section = dict(x.config.init)
    weights = section.pop("weights")
    section["cast"] |= x.config.precision == "float64"  # no weights circulate in it
    places = four_bits.whole({"params": x.abstract.params, **of_model(x.abstract.variables)})
    places["params"] = lora.without(places["params"])
    others = x.abstract.variables.get(FROZEN, {})
    slots = trees.flatten(places | {FROZEN: others})
    arrays = frozen.pretrained(x.config, others)
    if weights is not None:
        try:
            arrays |= loading.read_leaves(x.config.model.name, places, weights, **section)
        except (WeightsError, ConfigError) as error:
            raise type(error)(f"config.init: {error}") from error
    return {
        name: jax.make_array_from_callback(array.shape, slots[name].sharding, array.__getitem__)
        for name, array in arrays.items()
    }


def make_prepare(mean, std, augmentation: Callable, crop_size: int | None = None) -> Callable:
    """Returns `prepare(batch, key) -> batch`: augments the batch if there is a key, then normalises its pictures.

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
        pictures = [name for name in ("image", "target", "other", "style") if name in batch and batch[name].ndim == 4]
        return batch | {name: augment.normalize(batch[name], mean, std) for name in pictures}

    return prepare


def compiler_options(config: ConfigDict) -> dict[str, bool | int] | None:
    """Returns how to compile what goes along with training, where config.deterministic asks for something."""
    return tuning.DETERMINISTIC.get(jax.default_backend()) if config.deterministic else None


def make_step(x: Experiment, axis_name: str | None, leaf_norms: bool = False) -> Callable:
    """Returns the step that trains, of one player or of two, to be compiled.

    Args:
      x: the experiment.
      axis_name: under `jax.pmap`, the axis over which gradients, metrics and statistics are averaged.
      leaf_norms: whether the metrics have the norm of each leaf's gradient.
    """
    config = x.config
    named = dict(seed=config.seed, precision=config.precision, prepare=x.prepare, frozen=x.frozen)
    named |= dict(leaf_norms=leaf_norms)
    parts = pipeline.microbatches(config.microbatches, x.mesh)
    objective = x.objective
    if axis_name is None:
        objective = parallel.over_mesh(pipeline.pipelined(objective, x.mesh, parts), x.mesh, parts)
    if hasattr(x.model, "players"):
        if config.adaptive_augment is not None:
            named["adaptive"] = Adaptive(**config.adaptive_augment)
        step = make_adversarial_step(x.model, objective, x.optimizer, critic_steps=config.critic_steps, **named)
    else:
        named |= dict(accumulate=config.accumulate, axis_name=axis_name, freeze=x.freeze)
        step = make_train_step(x.model, objective, x.optimizer, **named)
    if not config.offload_optimizer:
        return step
    near = jax.tree.map(lambda leaf: leaf.sharding.with_memory_kind("device"), x.abstract.opt_state)
    return lambda state, batch: step(state._replace(opt_state=jax.device_put(state.opt_state, near)), batch)


def train_batches(
    x: Experiment, start_step: int, windows: Sequence[Sequence[int]] = ()
) -> Iterator[dict[str, np.ndarray]]:
    """Returns this process's share of the endless training batches, from `start_step` on, but for those passed over."""
    index, count = parallel.share(x.mesh)
    return data.batches(
        x.sources["train"],
        batch_size=x.config.data.batch_size,
        seed=x.config.seed,
        start_step=start_step,
        windows=windows,
        buckets=tuple(x.config.data.get("buckets", ())),
        process_index=index,
        process_count=count,
        threads=x.config.data.get("threads"),
    )


def train_records(x: Experiment, step: int, windows: Sequence[Sequence[int]] = ()) -> np.ndarray:
    """Returns which training records the batch of a step has, int64 (batch_size,), over all processes."""
    return data.batch_records(
        x.sources["train"],
        batch_size=x.config.data.batch_size,
        seed=x.config.seed,
        number=data.position(step, windows),
        buckets=tuple(x.config.data.get("buckets", ())),
    )


def evaluating(x: Experiment, params: PyTree, variables: PyTree) -> Callable:
    """Returns `forward`, as objectives take it, of an experiment's model in evaluation mode; see `bind`."""
    return bind(x.model, params, variables, train=False, frozen=x.frozen)


def make_evaluation(x: Experiment) -> Callable[[str, TrainState], dict[str, float]]:
    """Returns `evaluate(split, state) -> {"split/metric": mean}`, compiled at its first use."""

    options = compiler_options(x.config)
    step, score = (jax.jit(make(x), compiler_options=options) for make in (_evaluation_step, _score_step))

    def scores(split: str, params, variables) -> tuple[np.ndarray, np.ndarray]:
        return predict(score, params, variables, evaluation_batches(x, split))

    def evaluate_on(split: str, state: TrainState) -> dict[str, float]:
        params = averaged_params(state.params, state.opt_state)
        metrics = evaluate(step, params, state.variables, evaluation_batches(x, split))
        if x.config.data.get("held_out") and split == "test":
            labels, values = scores(split, params, state.variables)
            _, known = scores("validation", params, state.variables)
            metrics |= detection(values, np.isin(labels, x.config.data.held_out), known)
        return {f"{split}/{name}": value for name, value in metrics.items()}

    return evaluate_on


def _score_step(x: Experiment) -> Callable:
    """The loss of each example by itself: how unusual a model of the usual ones finds it."""

    def step(params, variables, batch):
        params, batch = cast_floats((params, x.prepare(batch, None)), dtype_of(x.config.precision))
        forward = evaluating(x, params, variables)

        def score(record):
            return x.objective(forward, jax.tree.map(lambda value: value[None], record), None)[0]

        return jax.lax.map(score, batch, batch_size=64)

    return step


def metric_names(x: Experiment) -> list[str]:
    """Returns the names of the objective's metrics, by tracing an evaluation abstractly."""
    batch = _example(x.sources["train"])
    return list(jax.eval_shape(_evaluation_step(x), x.abstract.params, x.abstract.variables, batch))


def without_damaged(x: Experiment, split: str) -> Experiment:
    """Returns the experiment with a split that has only the records that can be read, as evaluation counts them."""
    source = x.sources[split]
    if not source.damaged:
        return x
    kept = np.setdiff1d(np.arange(len(source)), list(source.damaged))
    return x._replace(sources=x.sources | {split: data.CheckedSource(data.SubsetSource(source, kept), split)})


def model_inputs(x: Experiment) -> list[jax.ShapeDtypeStruct]:
    """Returns the shapes of what the objective gives the model of one record, but for what it gives by name."""

    def inputs(params, variables, batch):
        batch = cast_floats(x.prepare(batch, None), jnp.dtype(jnp.float32))
        return call_model(x.objective, evaluating(x, params, variables), batch).inputs

    return list(jax.eval_shape(inputs, x.abstract.params, x.abstract.variables, _example(x.sources["train"])))


def _evaluation_step(x: Experiment) -> Callable:
    objective = pipeline.pipelined(x.objective, x.mesh, pipeline.microbatches(x.config.microbatches, x.mesh))

    def step(params, variables, batch):
        params, batch = cast_floats((params, x.prepare(batch, None)), dtype_of(x.config.precision))
        return objective(evaluating(x, params, variables), batch, None)[1][0]

    return step


def make_prediction(x: Experiment) -> Callable:
    """Returns `step(params, variables, batch) -> class probabilities (B, K)`, jitted."""

    @jax.jit
    def step(params, variables, batch):
        params, batch = cast_floats((params, x.prepare(batch, None)), dtype_of(x.config.precision))
        logits, _ = call_model(x.objective, evaluating(x, params, variables), batch).result
        return jax.nn.softmax(logits.astype(jnp.float32))

    return step


def make_reading(x: Experiment) -> Callable:
    """Returns `step(params, variables, batch) -> (inputs, outputs)` of the model on texts, jitted.

    Inputs are a tuple of what the model gets by position. Outputs are its likeliest tokens (B, T), each given the true
    ones before it, or None if it doesn't write tokens.
    """

    @jax.jit
    def step(params, variables, batch):
        params, batch = cast_floats((params, x.prepare(batch, None)), dtype_of(x.config.precision))
        call = call_model(x.objective, evaluating(x, params, variables), batch)
        outputs = call.result[0]
        logits = outputs.get("masked_lm") if isinstance(outputs, dict) else outputs
        if hasattr(logits, "hidden"):  # what the objective projects in chunks
            return call.inputs, jax.lax.map(lambda x: logits.logits(x).argmax(-1), logits.hidden[:, None]).squeeze(1)
        words = x.sources["test"].target_tokenizer.vocab_size
        writes = logits is not None and logits.ndim == 3 and logits.shape[-1] >= words
        return call.inputs, logits.argmax(-1) if writes else None

    return step


def evaluation_batches(x: Experiment, split: str) -> Iterator[dict[str, jax.Array]]:
    """Returns one pass over a split in placed, padded batches."""
    index, count = parallel.share(x.mesh)
    return parallel.prefetch(
        data.evaluation_batches(
            x.sources[split],
            batch_size=x.config.data.batch_size,
            process_index=index,
            process_count=count,
            threads=x.config.data.get("threads"),
        ),
        partial(parallel.place, mesh=x.mesh),
    )


class Call(NamedTuple):
    """What a model was given by position, and what it returned."""

    inputs: tuple[jax.Array, ...]
    result: Any


def call_model(objective: Callable, forward: Callable, batch: Mapping[str, jax.Array]) -> Call:
    """Returns the first call that an objective makes of the model: it alone knows what the model takes of a batch."""
    calls = []

    def listening(*inputs, **options):
        call = Call(inputs, forward(*inputs, **options))
        if options.get("network") is None:
            calls.append(call)
        return call.result

    objective(listening, batch, None)
    return calls[0]


def _example(source: data.Source) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of one record, abstractly."""
    return {name: jax.ShapeDtypeStruct((1, *np.shape(v)), np.asarray(v).dtype) for name, v in source[0].items()}


def _token_ids(objective: str, source: data.Source) -> dict[str, Any]:
    """What an objective wants to know of the vocabulary and a config need not say, from the data's tokenizer."""
    tokenizer = getattr(source, "tokenizer", None)
    if tokenizer is None or objective not in objectives.OBJECTIVES:
        return {}
    known = {
        "vocab_size": tokenizer.vocab_size,
        "special_ids": tuple(sorted(set(tokenizer.special.values()))),
        "mask_id": tokenizer.special.get("mask"),
        "sentinels": tokenizer.sentinels,
        "start_id": tokenizer.start_id,
        "end_id": tokenizer.end_id,
    }
    takes = inspect.signature(objectives.OBJECTIVES[objective]).parameters
    return {name: value for name, value in known.items() if name in takes and value is not None}


def _check_vocabulary(config: ConfigDict, model: nn.Module, source: data.Source) -> None:
    size = getattr(model, "vocab_size", None)
    if size is None or not hasattr(source, "tokenizer"):
        return
    tokenizers.check_vocab(source.tokenizer, size, name="config.model.vocab_size")
    end = source.tokenizer.end_id
    if hasattr(model, "end_id") and end is not None:
        default = end == source.tokenizer.vocab_size - 1  # without one, the largest token of a text ends it
        if model.end_id != end and not (default and model.end_id is None):
            raise ConfigError(
                f"config.model.end_id={model.end_id}, but the tokenizer of {config.data.name!r} ends a text by {end}; "
                f"set it to {end}"
            )
    name = "target_vocab_size" if hasattr(model, "target_vocab_size") else "vocab_size"
    if "targets" in source[0]:
        tokenizers.check_vocab(source.target_tokenizer, getattr(model, name), name=f"config.model.{name}")


def _check_call(config: ConfigDict, model: nn.Module, source: data.Source) -> None:
    """Whether the model can be called as packed data and a loss in chunks need it."""
    takes = inspect.signature(type(model).__call__).parameters
    if "documents" in source[0] and "documents" not in takes:
        raise ConfigError(
            f"config.data: {config.data.name!r} has several documents in a row, which the model {config.model.name!r} "
            "can't keep apart; the decoders, such as gpt2, can, and data.name='text' has one in a row"
        )
    if config.objective.name == "image_text_contrastive" and (config.compile != "jit" or config.accumulate != 1):
        raise ConfigError(
            f"config.objective {config.objective.name!r} tells each pair from all others of the batch, which "
            "config.compile='pmap' and config.accumulate would cut into parts"
        )
    if config.objective.get("chunk_size") is not None and "project" not in takes:
        raise ConfigError(
            f"config.objective.chunk_size: the model {config.model.name!r} can't leave its logits to the loss; the "
            "decoders, such as gpt2, can"
        )


# objectives that read "label" as the number of a class, whatever else is asked of them
_LABELLED = ("classification", "classification_with_auxiliary", "perceptron", "segmentation", "token_classification")


def _bounds(config: ConfigDict, model: nn.Module) -> dict[str, data.Bound]:
    """The integers that a record's arrays may hold, as far as the model says."""
    bounds, objective = {}, config.objective
    labelled = objective.name in _LABELLED or (objective.name in objectives.OBJECTIVES and objective.get("conditional"))
    if getattr(model, "num_classes", None) and labelled:
        takes = inspect.signature(objectives.OBJECTIVES[objective.name]).parameters
        ignored = objective.get("ignore_label", takes["ignore_label"].default if "ignore_label" in takes else None)
        bounds["label"] = data.Bound(model.num_classes, ignored)
    if size := getattr(model, "vocab_size", None):
        bounds["tokens"] = data.Bound(size)
        bounds["targets"] = data.Bound(getattr(model, "target_vocab_size", None) or size)
    return bounds


def _sources(config: ConfigDict, bounds: Mapping[str, data.Bound]) -> tuple[dict[str, data.Source], tuple[str, ...]]:
    section = {key: value for key, value in config.data.items() if key not in PIPELINE}
    size, held_out = config.data.get("validation_size", 0), tuple(config.data.get("held_out", ()))
    if held_out and not size:
        raise ConfigError("config.data.held_out needs config.data.validation_size: the threshold comes from there")
    splits = ("train", "test", *(["validation"] if size else []))
    sources = {split: data.create(config.data.name, split=split, validation_size=size, **section) for split in splits}
    if held_out:  # what a detector of anomalies must not have seen
        sources |= {split: data.without(sources[split], held_out) for split in splits if split != "test"}
    if unpaired := tuple(config.data.get("unpaired", ())):
        sources = {split: data.UnpairedSource(source, unpaired, split == "train") for split, source in sources.items()}
    if (style := config.data.get("style")) is not None:
        picture = _style(style, sources["train"])
        sources = {split: data.StyledSource(source, picture) for split, source in sources.items()}
    if hasattr(sources["train"], "tokenizer"):  # whose vocabulary is compared with the model's as a whole
        bounds = {name: bound for name, bound in bounds.items() if name == "label"}
    named = dict(bounds=bounds, skip=config.data.get("skip_damaged", 0), seed=config.seed)
    sources = {split: data.CheckedSource(source, split, **named) for split, source in sources.items()}
    names = data.DATASETS[config.data.name].class_names or getattr(sources["test"], "class_names", None)
    return sources, tuple(names or ())


def _style(style: str | int, source: data.Source) -> np.ndarray:
    """The picture of `config.data.style`, a file or the number of a training record."""
    if "image" not in source[0]:
        raise ConfigError("config.data.style is for data of pictures")
    if not isinstance(style, int):
        return data.decode_image(style, np.shape(source[0]["image"])[-1])
    if not 0 <= style < len(source):
        raise ConfigError(f"config.data.style: expected a file or a record, 0 to {len(source) - 1:,}, got {style}")
    return source[style]["image"]


def _check_players(config: ConfigDict, model: nn.Module) -> None:
    pictures = hasattr(model, "discriminate") and config.objective.name == "adversarial"
    if config.adaptive_augment is not None and not pictures:
        raise ConfigError(
            "config.adaptive_augment is for a discriminator of pictures alone, of the objective 'adversarial' and a "
            f"model such as dcgan, not {config.model.name!r} with {config.objective.name!r}"
        )
    if not hasattr(model, "players"):
        if config.critic_steps != 1:
            raise ConfigError(
                f"config.critic_steps={config.critic_steps}, but {config.model.name!r} has no two players"
            )
        return
    if config.accumulate != 1:
        raise ConfigError("config.accumulate is for one player; of two, each moves with a batch of its own")
    if config.compile != "jit":
        raise ConfigError("config.compile='pmap' is for one player; two train by 'jit', over any mesh")
    if config.optimizer.get("freeze"):
        raise ConfigError("config.optimizer.freeze is for one player, of two both train")
    if config.lora is not None:
        raise ConfigError("config.lora is for one player, of two all parameters train")


def _check_classes(config: ConfigDict, model: nn.Module, class_names: tuple[str, ...]) -> None:
    classes = getattr(model, "num_classes", None)
    if classes == 0 and hasattr(type(model), "sample"):  # it makes pictures, and asks for no class
        return
    if classes is not None and classes < len(class_names):
        raise ConfigError(
            f"config.model.num_classes={classes}, but the data set {config.data.name!r} has {len(class_names)} classes"
        )
