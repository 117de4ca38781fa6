"""What a frozen classifier says of the pictures that a model samples, at every evaluation.

    frozen=dict(judge=dict(weights="runs/lenet5")), judge=dict(network="judge", samples=2_000)

Samples and real pictures of the split are compared by what the network's last layer sees of them: "fid", "kid",
"precision" and "recall", see `deepmodels.evaluation.images`. These are what papers call so only if the network is the
Inception whose weights TensorFlow published, and there are 50,000 pictures; by another network, they compare with
figures of the same network and as many pictures alone. If the network is a classifier, "recognised" and "classes" say
how sure it is of the samples, and as of how many classes it takes them.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from deepmodels import data, parallel
from deepmodels.errors import ConfigError
from deepmodels.evaluation import frechet_distance, kernel_distance, precision_recall, recognition
from deepmodels.evaluation.images import NEIGHBOURS
from deepmodels.training.experiment import Experiment
from deepmodels.training.frozen import FROZEN, chosen
from deepmodels.training.optimizer import averaged_params
from deepmodels.training.step import TrainState, computed, master_dtype, of_model
from deepmodels.trees import PyTree


class _Seen(NamedTuple):
    features: np.ndarray  # (N, D)
    probabilities: np.ndarray  # (N, K)


def metric_names(x: Experiment) -> list[str]:
    """Returns the names of the metrics that an experiment's judge adds; none without one."""
    if x.config.judge is None:
        return []
    network = x.frozen[x.config.judge.network]
    recognises = getattr(network.model, "num_classes", 0)
    return ["fid", "kid", "precision", "recall", *(["recognised", "classes"] if recognises else [])]


def check(x: Experiment) -> None:
    """Checks that what `config.judge` asks for can be done.

    Raises:
      ConfigError: there is no such network, the model doesn't make pictures by itself, or there are too few pictures.
    """
    if x.config.judge is None:
        return
    chosen(x.frozen, x.config.judge.network)
    if not hasattr(type(x.model), "sample"):
        raise ConfigError(f"config.judge is for a model that samples pictures, which {x.config.model.name!r} doesn't")
    watched = [split for split in x.sources if split != "train"]
    fewest = min(x.config.judge.samples, *(len(x.sources[split]) for split in watched))
    if fewest <= NEIGHBOURS:
        raise ConfigError(f"config.judge.samples: expected more than {NEIGHBOURS}, and a split of more, got {fewest}")
    jax.eval_shape(partial(_sampled, x), x.abstract.params, x.abstract.variables, 0)  # whether the pictures fit


def judged(x: Experiment, evaluate_on: Callable) -> Callable[[str, TrainState], dict[str, float]]:
    """Returns `evaluate(split, state) -> {"split/metric": value}` with the judge's metrics, if there is a judge.

    The latents of all evaluations are the same, as are the real pictures: as many as there are samples, or all there
    are, at equal distances in the split; what the judge sees of them is kept.

    Args:
      x: the experiment, which `check` has passed.
      evaluate_on: likewise, without them.
    """
    if x.config.judge is None:
        return evaluate_on
    size = x.config.data.batch_size
    sampled, looked = jax.jit(partial(_sampled, x)), jax.jit(partial(_looked, x))
    reals: dict[str, _Seen] = {}

    def real(split: str, variables: PyTree) -> _Seen:
        if split not in reals:
            source = x.sources[split]
            count = min(x.config.judge.samples, len(source))
            subset = data.SubsetSource(source, np.arange(count) * len(source) // count)
            options = dict(zip(("process_index", "process_count"), parallel.share(x.mesh), strict=True))
            batches = data.evaluation_batches(subset, batch_size=size, **options)
            parts = [parallel.fetch(looked(variables, parallel.place(batch, x.mesh))) for batch in batches]
            reals[split] = _joined(parts, count)
        return reals[split]

    def evaluate(split: str, state: TrainState) -> dict[str, float]:
        metrics, params = evaluate_on(split, state), averaged_params(state.params, state.opt_state)
        numbers = range(-(-x.config.judge.samples // size))
        parts = [parallel.fetch(sampled(params, state.variables, number)) for number in numbers]
        made, true = _joined(parts, x.config.judge.samples), real(split, state.variables)
        precision, recall = precision_recall(made.features, true.features)
        values = {
            "fid": frechet_distance(made.features, true.features),
            "kid": kernel_distance(made.features, true.features),
            "precision": precision,
            "recall": recall,
            **recognition(made.probabilities),
        }
        return metrics | {f"{split}/{name}": values[name] for name in metric_names(x)}

    return evaluate


def _sampled(x: Experiment, params: PyTree, variables: PyTree, number: int) -> _Seen:
    """What the judge sees of a batch of samples, the same ones for each number."""
    size, label = x.config.data.batch_size, {}
    if getattr(x.model, "num_classes", 0):
        label = {"label": (number * size + jnp.arange(size)) % x.model.num_classes}
    key = jax.random.fold_in(jax.random.key(0), number)
    pictures = x.model.apply({"params": params, **of_model(variables)}, key, size, method="sample", **label)
    pictures = jax.lax.with_sharding_constraint(pictures, parallel.batch_sharding(x.mesh))
    return _recognised(x, variables, pictures)


def _looked(x: Experiment, variables: PyTree, batch: PyTree) -> _Seen:
    """What the judge sees of a batch of real pictures."""
    return _recognised(x, variables, x.prepare(batch, None)["image"])


def _recognised(x: Experiment, variables: PyTree, pictures: jax.Array) -> _Seen:
    name = x.config.judge.network
    dtype = master_dtype(x.config.precision)
    mean, std = (
        jnp.asarray(np.reshape(x.config.data.get(key, default), (1, 1, 1, -1)), dtype)
        for key, default in (("mean", 0.0), ("std", 1.0))
    )
    pictures = jnp.clip(pictures.astype(dtype), -mean / std, (1 - mean) / std)  # no file of a picture holds others
    return _Seen(*x.frozen[name].recognise(computed(variables[FROZEN][name], dtype), pictures))


def _joined(parts: list[_Seen], count: int) -> _Seen:
    return _Seen(*(np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True)))
