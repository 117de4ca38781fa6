"""What a model of pairs of texts writes by itself, token after token, and where it looks meanwhile."""

import itertools
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from deepmodels import parallel
from deepmodels.analysis.intermediates import intermediates
from deepmodels.errors import ConfigError, nearest
from deepmodels.evaluation import WRITTEN
from deepmodels.sampling import beam_search
from deepmodels.training import experiment
from deepmodels.training.experiment import Experiment
from deepmodels.training.step import cast_floats, dtype_of
from deepmodels.trees import PyTree

_WEIGHTS = ("decoder/layers/cross_attention/weights", "decoder/attention/weights")  # paths of modules
_LOOKED_AT = 3  # texts whose attention is shown
_SHORT = 28  # tokens; longer texts have no room in a figure


class Written(NamedTuple):
    """What a model made of the records of a split, in their order."""

    tokens: np.ndarray  # (N, T) int32, without the start, with the end and more of it behind
    texts: list[str]
    references: list[str]


class Look(NamedTuple):
    """Where a model looked while it wrote a text: S tokens of the source, T written ones."""

    source: list[str]
    written: list[str]
    weights: np.ndarray  # (layers, T, S), means over the heads


def check(x: Experiment) -> None:
    """Checks that what `config.decode` asks for can be done.

    Raises:
      ConfigError: a metric is unknown, or the model or the data aren't of pairs of texts.
    """
    for name in x.config.decode.metrics:
        if name not in WRITTEN:
            raise ConfigError(f"config.decode.metrics: no metric {name!r}: {nearest(name, WRITTEN)}")
    if not hasattr(x.model, "step") or "targets" not in x.sources["test"][0]:
        raise ConfigError(
            f"config.decode is for a model that writes one text from another and data of pairs of texts, not for "
            f"{x.config.model.name!r} on {x.config.data.name!r}"
        )


def write(x: Experiment, params: PyTree, variables: PyTree, split: str = "test") -> Written:
    """Returns the likeliest texts that a beam search finds, as `config.decode` says, no longer than the data's.

    Args:
      x: the experiment; `check` has passed it.
      params: of the model.
      variables: its untrained collections.
      split: whose sources are read.
    """
    source, options = x.sources[split], x.config.decode
    tokenizer = source.target_tokenizer

    @jax.jit
    def search(params, variables, batch):
        params, batch = cast_floats((params, batch), dtype_of(x.config.precision))
        collections, mask = {"params": params, **variables}, batch.get("mask")
        length = batch["targets"].shape[1] - 1
        memory = x.model.apply(collections, batch["tokens"], mask, method="encode")
        return beam_search(
            lambda tokens, state: x.model.apply(collections, tokens, state, method="step"),
            x.model.apply(collections, memory, mask, length=length, method="start"),
            start=tokenizer.start_id,
            end=tokenizer.end_id,
            batch_size=batch["tokens"].shape[0],
            beam_size=options.beam_size,
            max_length=length,
            length_penalty=options.length_penalty,
        ).tokens[:, 0]

    batches = experiment.evaluation_batches(x, split)
    tokens = np.concatenate([parallel.fetch(search(params, variables, batch)) for batch in batches])[: len(source)]
    references = [tokenizer.decode(source[i]["targets"].tolist()) for i in range(len(source))]
    return Written(tokens, [tokenizer.decode(row.tolist()) for row in tokens], references)


def measure(x: Experiment, written: Written, split: str = "test") -> dict[str, float]:
    """Returns the metrics that `config.decode` names, {"test/bleu": ...}."""
    return {f"{split}/{name}": WRITTEN[name](written.texts, written.references) for name in x.config.decode.metrics}


def look(x: Experiment, params: PyTree, variables: PyTree, written: Written, split: str = "test") -> list[Look]:
    """Returns where the model looked when it wrote the first short texts; none if it has no attention to the source.

    Args:
      x: the experiment.
      params: of the model.
      variables: its untrained collections.
      written: what it wrote of the split.
      split: see above.
    """
    source = x.sources[split]
    tokenizer, target_tokenizer = source.tokenizer, source.target_tokenizer
    short = (i for i in range(len(source)) if source[i]["mask"].sum() <= _SHORT)
    chosen = [*itertools.islice(short, _LOOKED_AT)]
    if not chosen:
        return []
    tokens, mask = (np.stack([source[i][name] for i in chosen]) for name in ("tokens", "mask"))
    texts = written.tokens[chosen]
    start = np.full_like(texts[:, :1], target_tokenizer.start_id)
    inputs = {"params": params, **variables}, tokens, np.concatenate([start, texts[:, :-1]], axis=1), mask
    outputs = jax.eval_shape(partial(intermediates, x.model), *inputs)
    path = next((path for path in _WEIGHTS if path in outputs), None)
    if path is None:
        return []
    weights = jax.jit(partial(intermediates, x.model, pattern=path))(*inputs)[path]
    # of a scanned stack (L, N, heads, T, S), of a decoder that is scanned over time (T, N, S)
    weights = weights.mean(2).swapaxes(0, 1) if weights.ndim == 5 else weights.swapaxes(0, 1)[:, None]
    looks = []
    for row, (read, held, text) in enumerate(zip(tokens, mask, texts, strict=True)):
        columns, ends = int(held.sum()), np.flatnonzero(text == target_tokenizer.end_id)
        rows = int(ends[0]) + 1 if len(ends) else len(text)
        pieces = _pieces(tokenizer, read[:columns]), _pieces(target_tokenizer, text[:rows])
        looks.append(Look(*pieces, np.asarray(weights[row, :, :rows, :columns], np.float32)))
    return looks


def _pieces(tokenizer, ids: Iterable[int]) -> list[str]:
    """Each token as text, and what has none by what it is for."""
    roles = {number: f"<{role}>" for role, number in tokenizer.special.items()}
    return [roles.get(int(i)) or tokenizer.decode([int(i)]) for i in ids]
