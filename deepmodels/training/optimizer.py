"""Optimizers and learning-rate schedules by name, from optax, and what a config adds around them.

An optimizer's section of a config reads

    optimizer=dict(name="momentum", learning_rate=0.1, momentum=0.9, weight_decay=5e-4, clip_norm=1.0,
                   schedule=dict(name="cosine", warmup_steps=500), ema=0.999)
"""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from deepmodels import arguments, trees
from deepmodels.errors import ConfigError, unknown
from deepmodels.training.freeze import freeze, layer_rates, unfreeze
from deepmodels.trees import PyTree

Schedule = Callable[[jax.Array], jax.Array]


# Schedules: (peak learning rate, steps, arguments) -> a function of the step.


def constant(peak: float, steps: int, *, warmup_steps: int = 0) -> Schedule:
    """The peak throughout, after a linear warm-up."""
    return _warmed_up(peak, warmup_steps, lambda step: jnp.full_like(step, peak, dtype=jnp.float32))


def step_decay(
    peak: float, steps: int, *, boundaries: tuple[int, ...], factor: float = 0.1, warmup_steps: int = 0
) -> Schedule:
    """The peak, multiplied by `factor` at each step in `boundaries`."""
    scales = {int(boundary) - warmup_steps: factor for boundary in boundaries}
    return _warmed_up(peak, warmup_steps, optax.piecewise_constant_schedule(peak, scales))


def cosine(peak: float, steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Half a cosine from the peak to `final` times the peak. Loshchilov & Hutter (2016), arXiv:1608.03983."""
    return _warmed_up(peak, warmup_steps, optax.cosine_decay_schedule(peak, max(1, steps - warmup_steps), final))


def linear(peak: float, steps: int, *, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """A straight line from the peak to `final` times the peak."""
    return _warmed_up(peak, warmup_steps, optax.linear_schedule(peak, peak * final, max(1, steps - warmup_steps)))


def noam(peak: float, steps: int, *, warmup_steps: int = 4000) -> Schedule:
    """Linear warm-up to the peak, then the inverse square root of the step. Vaswani et al. (2017), arXiv:1706.03762."""

    def schedule(step: jax.Array) -> jax.Array:
        n = jnp.asarray(step + 1, jnp.float32)
        return peak * jnp.minimum(n / warmup_steps, jnp.sqrt(warmup_steps / n))

    return schedule


def one_cycle(
    peak: float, steps: int, *, warmup: float = 0.3, initial: float = 1 / 25, final: float = 1e-4 / 25
) -> Schedule:
    """Cosine up to the peak during the share `warmup` of the steps, then down. Smith (2018), arXiv:1708.07120.

    `initial` and `final` are shares of the peak.
    """
    return optax.cosine_onecycle_schedule(max(2, steps), peak, warmup, 1 / initial, initial / final)


def _warmed_up(peak: float, warmup_steps: int, schedule: Schedule) -> Schedule:
    if not warmup_steps:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup_steps), schedule], [warmup_steps])


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step_decay,
    "cosine": cosine,
    "linear": linear,
    "noam": noam,
    "one_cycle": one_cycle,
}


def make_schedule(learning_rate: float, name: str = "constant", steps: int = 1, **options) -> Schedule:
    """Returns the learning rate as a function of the step.

    Args:
      learning_rate: the peak.
      name: a key of SCHEDULES.
      steps: length of the schedule in steps.
      **options: what that schedule takes.

    Raises:
      ConfigError: the name or an option is unknown.
    """
    if name not in SCHEDULES:
        raise unknown("schedule", name, (*SCHEDULES, "plateau"))
    arguments.check(f"schedule {name!r}", SCHEDULES[name], options, given=("peak", "steps"))
    return _standard_promotion(SCHEDULES[name](learning_rate, steps, **options))


def reduce_on_plateau(
    *, factor: float = 0.1, patience: int = 10, window: int = 100, cooldown: int = 0
) -> optax.GradientTransformationExtraArgs:
    """Returns a transformation that scales updates down by `factor` whenever the training loss stalls.

    The loss is averaged over `window` steps; `patience` windows without improvement count as stalled. The scale is
    part of the optimizer's state, so that resuming is exact.
    """
    return optax.contrib.reduce_on_plateau(
        factor=factor, patience=patience, accumulation_size=window, cooldown=cooldown
    )


# Optimizers: (learning rate, weight decay, mask of the decayed leaves, arguments) -> an optax transformation.
# Where weight decay belongs to the algorithm it is decoupled from the gradient (Loshchilov & Hutter, 2017,
# arXiv:1711.05101); for the others it is the classic L2 term, added to the gradient.


def _classic(make: Callable) -> Callable:
    def optimizer(learning_rate, weight_decay, mask, **options):
        decay = [optax.add_decayed_weights(weight_decay, mask)] if weight_decay else []
        return optax.chain(*decay, make(learning_rate, **options))

    return optimizer


def sgd(learning_rate: Schedule):
    """Stochastic gradient descent. Robbins & Monro (1951)."""
    return optax.sgd(learning_rate)


def momentum(learning_rate: Schedule, *, momentum: float = 0.9):
    """Gradient descent with heavy-ball momentum. Polyak (1964)."""
    return optax.sgd(learning_rate, momentum=momentum)


def nesterov(learning_rate: Schedule, *, momentum: float = 0.9):
    """Gradient descent with Nesterov's momentum. Sutskever et al. (2013)."""
    return optax.sgd(learning_rate, momentum=momentum, nesterov=True)


def adam(learning_rate: Schedule, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8):
    """Adam. Kingma & Ba (2014), arXiv:1412.6980."""
    return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)


def rmsprop(learning_rate: Schedule, *, decay: float = 0.9, eps: float = 1e-8, momentum: float | None = None):
    """RMSProp. Tieleman & Hinton (2012)."""
    return optax.rmsprop(learning_rate, decay=decay, eps=eps, momentum=momentum)


def adagrad(learning_rate: Schedule, *, eps: float = 1e-7):
    """Adagrad. Duchi, Hazan, Singer (2011)."""
    return optax.adagrad(learning_rate, eps=eps)


def adamw(
    learning_rate: Schedule,
    weight_decay: float,
    mask: Callable,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
):
    """Adam with decoupled weight decay. Loshchilov & Hutter (2017), arXiv:1711.05101."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)


def lamb(
    learning_rate: Schedule,
    weight_decay: float,
    mask: Callable,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
):
    """LAMB, for large batches. You et al. (2019), arXiv:1904.00962."""
    return optax.lamb(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask)


def lion(learning_rate: Schedule, weight_decay: float, mask: Callable, *, b1: float = 0.9, b2: float = 0.99):
    """Lion. Chen et al. (2023), arXiv:2302.06675."""
    return optax.lion(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=mask)


def adafactor(learning_rate: Schedule, weight_decay: float, mask: Callable, *, min_dim_size_to_factor: int = 128):
    """Adafactor. Shazeer & Stern (2018), arXiv:1804.04235."""
    return optax.adafactor(
        learning_rate,
        min_dim_size_to_factor=min_dim_size_to_factor,
        weight_decay_rate=weight_decay or None,
        weight_decay_mask=mask,
    )


def muon(
    learning_rate: Schedule,
    weight_decay: float,
    mask: Callable,
    *,
    beta: float = 0.95,
    ns_steps: int = 5,
    b1: float = 0.9,
    b2: float = 0.95,
):
    """Muon for hidden matrices, AdamW for the rest: embeddings, heads, norms, biases. Jordan et al. (2024).

    Each matrix of layers or experts that are stacked is orthogonalised by itself, a convolution's kernel as one matrix
    (height x width x in, out). Updates have the size of AdamW's, as in Liu et al. (2025), arXiv:2502.16982, section
    2.2, so that one learning rate and one weight decay serve both. `beta` and `ns_steps` are Muon's, `b1` and `b2`
    AdamW's.
    """

    def axes(tree: PyTree) -> PyTree:
        return trees.map_named(_matrix_axes, tree)

    def kinds(params: PyTree) -> PyTree:
        return trees.map_named(lambda name, leaf: "other" if _matrix_axes(name, leaf) is None else "matrix", params)

    def sized(name: str, update: jax.Array) -> jax.Array:
        rows = math.prod(update.shape[axis] for axis in _matrix_axes(name, update).reduction_axis)
        return 0.2 * math.sqrt(max(rows, update.shape[-1])) * update

    matrix = optax.chain(
        optax.contrib.scale_by_muon(beta=beta, ns_steps=ns_steps, weight_dimension_numbers=axes),
        optax.stateless(lambda updates, _: trees.map_named(sized, updates)),
    )
    return optax.chain(
        optax.partition({"matrix": matrix, "other": optax.scale_by_adam(b1, b2)}, kinds),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


_HIDDEN = re.compile(r"(?!(.*/)?(head|[^/]*embed)/).*kernel")
_CONV = re.compile(r"(.*/)?[^/]*conv[^/]*/kernel")


def _matrix_axes(name: str, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of a leaf are those of a matrix for Muon; None if it is none."""
    if leaf.ndim < 2 or not _HIDDEN.fullmatch(name):
        return None
    window = min(2, leaf.ndim - 2) if _CONV.fullmatch(name) else 0
    return optax.contrib.MuonDimensionNumbers(tuple(range(-2 - window, -1)), -1)


OPTIMIZERS: dict[str, Callable] = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "adam": adam,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adamw": adamw,
    "lamb": lamb,
    "lion": lion,
    "adafactor": adafactor,
    "muon": muon,
}
BY_LAYER = {"layer_rates": layer_rates, "unfreeze": unfreeze}
DECOUPLED = ("adamw", "lamb", "lion", "adafactor", "muon")


class EmaState(NamedTuple):
    """The state of `with_ema`: the wrapped optimizer's, and the average of the parameters."""

    inner: PyTree
    params: PyTree


def with_ema(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformationExtraArgs:
    """Returns `optimizer` with an exponential moving average of the parameters kept in its state.

    Polyak & Juditsky (1992); evaluation reads it through `averaged_params`.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params):
        return EmaState(optimizer.init(params), jax.tree.map(jnp.copy, params))

    def update(updates, state, params=None, **extra):
        updates, inner = optimizer.update(updates, state.inner, params, **extra)
        after = optax.apply_updates(params, updates)
        return updates, EmaState(inner, optax.incremental_update(after, state.params, 1 - decay))

    return optax.GradientTransformationExtraArgs(init, update)


def averaged_params(params: PyTree, opt_state: PyTree) -> PyTree:
    """Returns the parameters to evaluate with: their moving average where the optimizer keeps one.

    Of frozen parameters it keeps none; they are their own. Of two players each has an optimizer of its own.
    """
    if isinstance(opt_state, dict):
        return {name: averaged_params({name: params[name]}, own)[name] for name, own in opt_state.items()}
    if not isinstance(opt_state, EmaState):
        return params
    return jax.tree.map(lambda p, mean: p if isinstance(mean, optax.MaskedNode) else mean, params, opt_state.params)


def make_optimizer(section: Mapping[str, Any], steps: int) -> tuple[optax.GradientTransformationExtraArgs, Schedule]:
    """Returns the optimizer that a config's section describes, and its learning rate as a function of the step.

    Args:
      section: `name` (a key of OPTIMIZERS) and its own arguments, and around them
        `learning_rate`: the schedule's peak;
        `schedule`: a section of its own, `name` (a key of SCHEDULES, or "plateau") and arguments; constant by default;
        `weight_decay`: for the leaves whose path matches `decay_pattern` (".*kernel" by default);
        `clip_norm`: the largest global norm of a gradient. Pascanu et al. (2012), arXiv:1211.5063;
        `ema`: decay of a moving average of the parameters;
        `freeze`: pattern of the leaves that don't train, such as "stage[0-2].*", see `freeze.freeze`;
        `layer_rates`: pairs of a pattern and factors of the learning rate by layer, see `freeze.layer_rates`;
        `unfreeze`: pairs of a pattern and the steps at which layers begin to train, see `freeze.unfreeze`.
      steps: length of the schedule, where the schedule's section doesn't say.

    Raises:
      ConfigError: a name or an argument is unknown; the message names the nearest.
    """
    name, options = arguments.split(section)
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    around = ("schedule", "weight_decay", "decay_pattern", "clip_norm", "ema", "freeze", *BY_LAYER)
    inside = {key: value for key, value in options.items() if key not in around}
    if "learning_rate" not in inside:
        raise ConfigError(f"optimizer {name!r} needs the argument 'learning_rate'")
    arguments.check(f"optimizer {name!r}", OPTIMIZERS[name], inside, given=("weight_decay", "mask"))
    learning_rate = inside.pop("learning_rate")
    kind, shape = arguments.split(options.get("schedule") or {"name": "constant"})
    shape.setdefault("steps", steps)
    scale = []
    if kind == "plateau":
        del shape["steps"]
        arguments.check("schedule 'plateau'", reduce_on_plateau, shape)
        scale, kind, shape = [reduce_on_plateau(**shape)], "constant", {}
    schedule = make_schedule(learning_rate, kind, **shape)

    weight_decay, pattern = options.get("weight_decay") or 0.0, options.get("decay_pattern", ".*kernel")
    make = OPTIMIZERS[name] if name in DECOUPLED else _classic(OPTIMIZERS[name])
    parts = [make(schedule, weight_decay, lambda tree: trees.mask(tree, pattern), **inside)]
    if options.get("clip_norm"):
        parts.insert(0, optax.clip_by_global_norm(options["clip_norm"]))
    by_layer = [transformation(options[key]) for key, transformation in BY_LAYER.items() if options.get(key)]
    optimizer = optax.with_extra_args_support(optax.chain(*parts, *scale, *by_layer))
    optimizer = optax.GradientTransformationExtraArgs(*map(_standard_promotion, optimizer))
    if options.get("ema"):
        optimizer = with_ema(optimizer, options["ema"])
    if options.get("freeze"):
        optimizer = freeze(optimizer, options["freeze"])
    return optimizer, schedule


def _standard_promotion(function: Callable) -> Callable:
    """Optax multiplies integer counts with floats, which `jax_numpy_dtype_promotion=strict` would refuse."""

    @functools.wraps(function)
    def relaxed(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return relaxed
