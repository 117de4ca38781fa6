"""The training step: one pure function from (state, batch) to (state, metrics)."""

import contextlib
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from deepmodels.augment import discriminator_augment
from deepmodels.errors import ConfigError, unknown
from deepmodels.layers.batch_norm import statistics_over
from deepmodels.metrics import Mean, values
from deepmodels.training import four_bits, lora
from deepmodels.training.freeze import resting, without_gradient
from deepmodels.training.frozen import FROZEN, Network, chosen
from deepmodels.trees import PyTree

AUGMENTATION = "augmentation"  # the collection of what an adaptive augmentation has come to
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float64": jnp.float64}


class TrainState(NamedTuple):
    """Everything that training changes: arrays only, donated, sharded and saved as it is."""

    step: jax.Array  # () int32, the number of updates made
    params: PyTree  # masters, float32 (float64 where the precision says so)
    variables: PyTree  # untrained collections, {"batch_stats": ..., "frozen": other networks}; often {}
    opt_state: PyTree


def dtype_of(precision: str) -> jnp.dtype:
    """Returns the compute dtype of a precision's name: float32, bfloat16 or float64.

    Raises:
      ConfigError: the name is unknown, or float64 is asked for and JAX has it switched off.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "float64" and not jax.config.jax_enable_x64:
        raise ConfigError("precision 'float64' needs JAX_ENABLE_X64=1 in the environment")
    return jnp.dtype(PRECISIONS[precision])


def master_dtype(precision: str) -> jnp.dtype:
    """Returns the dtype in which the parameters of a precision are kept: float64 for float64, float32 for the rest."""
    return jnp.dtype(jnp.float64 if dtype_of(precision) == jnp.float64 else jnp.float32)


def cast_floats(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    """Returns `tree` with its floating point leaves in `dtype`; gradients flow back in the type they came in."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def computed(variables: PyTree, dtype: jnp.dtype) -> PyTree:
    """Returns a network's variables with its parameters in a compute dtype, if that is of floats."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return variables
    return variables | {"params": cast_floats(variables["params"], dtype)}


def of_model(variables: PyTree) -> PyTree:
    """Returns a state's untrained collections without those that are a run's own: "frozen" and "augmentation"."""
    return {name: tree for name, tree in variables.items() if name not in (FROZEN, AUGMENTATION)}


def bind(
    model: nn.Module,
    params: PyTree,
    variables: PyTree,
    *,
    train: bool,
    axis_name: str | None = None,
    freeze: str | None = None,
    frozen: Mapping[str, Network] | None = None,
) -> Callable:
    """Returns `forward(*inputs, key=None, **named) -> (outputs, new variables)`: the model with its arrays bound.

    `forward(*inputs, network=name, layers=None, **named)` gives the outputs of a frozen network instead, or of its
    layers by name, as `Network` does; the variables are then those that were given.

    Args:
      model: called as `model(*inputs, **named, train=train)`.
      params: its parameters, with adapters or without, see `deepmodels.training.lora`.
      variables: its untrained collections, and those of frozen networks under "frozen"; while training its own come
        back changed, and with them, in the collection "losses", what the model sows there for the objective.
      train: whether statistics are updated and dropout drops.
      axis_name: under `jax.pmap`, the axis over which batch statistics are taken, so that they are the whole batch's.
      freeze: pattern of the parameters that don't train; modules that have no others run as in evaluation.
      frozen: the frozen networks, by name.
    """
    others = variables.get(FROZEN, {})
    variables = of_model(variables)

    def forward(
        *inputs: jax.Array,
        key: jax.Array | None = None,
        network: str | None = None,
        layers: Sequence[str] | None = None,
        **named: jax.Array,
    ) -> tuple[PyTree, PyTree]:
        if network is not None:
            other = chosen(frozen or {}, network)
            return other(computed(others[network], inputs[0].dtype), *inputs, layers=layers, **named), variables
        mutable = [*variables, "losses"] if train else False
        rngs = {} if key is None else {"dropout": key}
        packed = four_bits.using(variables.get(four_bits.COLLECTION))
        with statistics_over(axis_name), resting(params, freeze), lora.adapting(params), packed:
            result = model.apply(
                {"params": params, **variables}, *inputs, **named, train=train, rngs=rngs, mutable=mutable
            )
        return result if train else (result, variables)

    return forward


def make_train_step(
    model: nn.Module,
    objective: Callable,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    precision: str = "float32",
    accumulate: int = 1,
    prepare: Callable[[PyTree, jax.Array | None], PyTree] = lambda batch, key: batch,
    axis_name: str | None = None,
    freeze: str | None = None,
    frozen: Mapping[str, Network] | None = None,
    leaf_norms: bool = False,
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `step(state, batch) -> (state, metrics)`, to be compiled by `jax.jit` or `jax.pmap`.

    Args:
      model: called as `model(*inputs, train=True)`.
      objective: `(forward, batch, key) -> (loss, (metrics, variables))`.
      optimizer: gets the loss as `value`, for schedules that watch it.
      seed: all randomness of step n is `fold_in(key(seed), n)`.
      precision: the compute dtype; parameters and batch are cast at the loss boundary, gradients return in float32.
      accumulate: number of equal parts that a batch is split into; their gradients are averaged before the update.
      prepare: `(batch, key) -> batch`, on the device: normalisation and augmentation.
      axis_name: under `jax.pmap`, the axis over which gradients, metrics and statistics are averaged.
      freeze: pattern of the parameters that get no gradient, as the optimizer has it; see `deepmodels.training.freeze`.
      frozen: networks that the objective looks through, by name, their arrays in the state's variables.
      leaf_norms: whether the metrics have "leaf_norms", float32 (leaves,): the norm of each parameter's gradient.
    """
    dtype = dtype_of(precision)

    def loss_fn(params, variables, batch, key):
        params, batch = cast_floats((without_gradient(params, freeze), prepare(batch, key)), dtype)
        forward = bind(model, params, variables, train=True, axis_name=axis_name, freeze=freeze, frozen=frozen)
        loss, (metrics, variables) = objective(forward, batch, key)
        return loss, (metrics, {name: leaves for name, leaves in variables.items() if name != "losses"})

    def gradients(params, variables, batch, key):
        grads, (metrics, variables) = jax.grad(loss_fn, has_aux=True)(params, variables, batch, key)
        grads = _scaled(grads, metrics["loss"], jnp.multiply)  # parts with more tokens than others count for more
        if axis_name is not None:
            grads, metrics, variables = jax.lax.pmean((grads, metrics, variables), axis_name)
        return grads, metrics, variables

    def accumulated(params, variables, batch, key):
        parts = jax.tree.map(lambda x: _split(x, accumulate), batch)

        def part(carry, xs):
            variables, total = carry
            index, batch = xs
            grads, metrics, changed = gradients(params, variables, batch, jax.random.fold_in(key, index))
            return (variables | changed, jax.tree.map(jnp.add, total, grads)), metrics

        zeros = jax.tree.map(jnp.zeros_like, params)
        (variables, total), metrics = jax.lax.scan(part, (variables, zeros), (jnp.arange(accumulate), parts))
        return jax.tree.map(lambda g: g / accumulate, total), jax.tree.map(lambda m: m.mean(0), metrics), variables

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        compute = gradients if accumulate == 1 else accumulated
        grads, metrics, variables = compute(state.params, state.variables, batch, key)
        grads, metrics = _scaled(grads, metrics["loss"], jnp.divide), values(metrics)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, value=metrics["loss"])
        params = optax.apply_updates(state.params, updates)
        state = TrainState(state.step + 1, params, state.variables | variables, opt_state)
        norms = {"leaf_norms": _leaf_norms(grads)} if leaf_norms else {}
        return state, metrics | {"grad_norm": optax.tree.norm(grads)} | norms

    return train_step


def _leaf_norms(grads: PyTree) -> jax.Array:
    return jnp.stack([optax.tree.norm(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(grads)])


class Adaptive(NamedTuple):
    """How likely a transformation of what a discriminator sees becomes: Karras et al. (2020), arXiv:2006.06676.

    Called with that probability, the mean sign of the logits of real pictures and how many they were, it returns the
    next one: higher where the discriminator is surer of them than it should be, lower where it is less sure.

    Attributes:
      target: of the mean sign.
      images: real pictures in which the probability could go from 0 to 1.
    """

    target: float = 0.6
    images: int = 500_000

    def __call__(self, probability: jax.Array, sign: jax.Array, count: int) -> jax.Array:
        move = jnp.sign(sign.astype(probability.dtype) - self.target) * (count / self.images)
        return jnp.clip(probability + move, 0, 1)


@contextlib.contextmanager
def augmenting(key: jax.Array, probability: jax.Array):
    """A context in which every picture that a model's method `discriminate` is given, real or not, is augmented.

    Args:
      key: of the draws, which differ from call to call.
      probability: of each transformation, see `deepmodels.augment.discriminator_augment`.
    """
    calls, key = itertools.count(), jax.random.fold_in(key, 3)

    def call(function, arguments, named, context):
        if context.method_name != "discriminate":
            return function(*arguments, **named)
        own = jax.random.fold_in(key, next(calls))
        return function(discriminator_augment(own, arguments[0], probability), *arguments[1:], **named)

    with nn.intercept_methods(call):
        yield


def _probability(state: TrainState) -> jax.Array:
    return state.variables[AUGMENTATION]["probability"]


def make_adversarial_step(
    model: nn.Module,
    objective: Callable,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    precision: str = "float32",
    critic_steps: int = 1,
    prepare: Callable[[PyTree, jax.Array | None], PyTree] = lambda batch, key: batch,
    adaptive: Adaptive | None = None,
    frozen: Mapping[str, Network] | None = None,
    leaf_norms: bool = False,
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `step(state, batch) -> (state, metrics)` of two players: some moves of the critic, one of the other.

    Goodfellow et al. (2014), arXiv:1406.2661, algorithm 1. The state's parameters and optimizers are dicts by player
    (`players` takes it apart). Each move of the critic sees a part of the batch of its own; the other, the last.

    Args:
      model: has `players`, the names of the critic and of the other in its parameters.
      objective: `(forward, batch, key, player=name) -> (loss, (metrics, variables))`, the loss of that player.
      optimizer: each player has a state of it; it gets the player's loss as `value`.
      seed: all randomness of step n is `fold_in(key(seed), n)`.
      precision: as for `make_train_step`.
      critic_steps: moves of the critic in a step, equal parts of the batch.
      prepare: as for `make_train_step`.
      adaptive: how what the critic sees is augmented; the state's variables then have "augmentation". None for nothing.
      frozen: as for `make_train_step`.
      leaf_norms: as for `make_train_step`; of the critic, the largest of its moves.
    """
    dtype = dtype_of(precision)
    critic, other = model.players

    def move(player, state: TrainState, batch, key):
        def loss_fn(own):
            params, given = cast_floats((state.params | {player: own}, prepare(batch, key)), dtype)
            forward = bind(model, params, state.variables, train=True, frozen=frozen)
            with contextlib.nullcontext() if adaptive is None else augmenting(key, _probability(state)):
                return objective(forward, given, key, player=player)

        (loss, (metrics, variables)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params[player])
        own = {player: state.params[player]}
        updates, opt_state = optimizer.update({player: grads}, state.opt_state[player], own, value=loss)
        params = state.params | optax.apply_updates(own, updates)
        state = TrainState(state.step, params, state.variables | variables, state.opt_state | {player: opt_state})
        norms = {"leaf_norms": _leaf_norms(grads)} if leaf_norms else {}
        return state, metrics | {"loss": loss, "grad_norm": optax.tree.norm(grads)} | norms

    def adversarial_step(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        parts = jax.tree.map(lambda x: _split(x, critic_steps), batch)

        moves = []
        for i in range(critic_steps):  # no scan: XLA's CPU back end is slow at convolutions in a loop
            part = jax.tree.map(operator.itemgetter(i), parts)
            state, metrics = move(critic, state, part, jax.random.fold_in(key, i))
            if adaptive is not None:
                probability = adaptive(_probability(state), metrics["real_sign"], len(jax.tree.leaves(part)[0]))
                state = state._replace(variables=state.variables | {AUGMENTATION: {"probability": probability}})
                metrics |= {"augmentation_probability": probability}
            moves.append(metrics)
        state, others = move(other, state, part, jax.random.fold_in(key, critic_steps))
        if leaf_norms:
            leaves = {critic: [values.pop("leaf_norms") for values in moves], other: [others.pop("leaf_norms")]}
        metrics = jax.tree.map(lambda *values: jnp.stack(values).mean(0), *moves)
        norms = optax.tree.norm((metrics["grad_norm"], others["grad_norm"]))
        both = {"loss": metrics["loss"] + others["loss"], "grad_norm": norms}
        if leaf_norms:
            both["leaf_norms"] = jnp.concatenate([jnp.stack(leaves[player]).max(0) for player in sorted(leaves)])
        return state._replace(step=state.step + 1), metrics | others | both

    return adversarial_step


def players(state: TrainState) -> dict[str, TrainState]:
    """Returns the state of each player of an adversarial training, by name: its parameters, variables and optimizer."""
    return {
        name: TrainState(
            state.step,
            state.params[name],
            {kind: tree[name] for kind, tree in of_model(state.variables).items() if name in tree},
            opt_state,
        )
        for name, opt_state in state.opt_state.items()
    }


def _scaled(grads: PyTree, loss: jax.Array | Mean, operation: Callable) -> PyTree:
    """Gradients multiplied with or divided by the weight of the mean that the loss is, if it has one."""
    if not isinstance(loss, Mean):
        return grads
    weight = loss.weight.clip(1e-9)
    return jax.tree.map(lambda g: operation(g, weight.astype(g.dtype)), grads)


def _split(x: jax.Array, parts: int) -> jax.Array:
    """Rows into (parts, rows / parts), strided, so that no row leaves its device."""
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
