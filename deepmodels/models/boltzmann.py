"""Restricted Boltzmann machines and deep belief networks.

Smolensky (1986); Hinton (2002), doi:10.1162/089976602760128018; Hinton, Osindero & Teh (2006),
doi:10.1162/neco.2006.18.7.1527; Hinton & Salakhutdinov (2006), doi:10.1126/science.1127647.

A machine's parameters are a dict of "kernel" (V, H), "visible_bias" (V,) and "hidden_bias" (H,); the probability of
visible and hidden units is exp(visible_bias v + hidden_bias h + v kernel h) / Z where both are 0 or 1. Gaussian units
have a variance of 1, so that data are scaled to it. B batch, V visible and H hidden units.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from deepmodels.errors import ConfigError, ShapeError, unknown
from deepmodels.layers.checks import check_images
from deepmodels.models.variant import Variant, images

Machine = dict[str, Array]
UNITS = ("bernoulli", "gaussian")
_MOST = 20  # units whose states are enumerated


def free_energy(
    machine: Machine, visible: Array, *, visible_units: str = "bernoulli", units: str = "bernoulli"
) -> Array:
    """Returns -log sum_h exp(-E(v, h)), of which exp(-F(v)) / Z is the probability of v: (B, V) -> (B,).

    Args:
      machine: the parameters.
      visible: (B, V).
      visible_units: "bernoulli" or "gaussian".
      units: of the hidden ones, likewise.
    """
    total = hidden_input(machine, visible)
    if units == "bernoulli":
        hidden = jax.nn.softplus(total).sum(-1)
    else:
        hidden = 0.5 * jnp.square(total).sum(-1)
    bias = machine["visible_bias"].astype(visible.dtype)
    if visible_units == "bernoulli":
        return -(visible @ bias) - hidden
    return 0.5 * jnp.square(visible - bias[None]).sum(-1) - hidden


def hidden_input(machine: Machine, visible: Array) -> Array:
    """Returns what the hidden units get, (B, V) -> (B, H): logits of Bernoulli ones, means of Gaussian ones."""
    return visible @ machine["kernel"].astype(visible.dtype) + machine["hidden_bias"].astype(visible.dtype)[None]


def visible_input(machine: Machine, hidden: Array) -> Array:
    """Returns what the visible units get, (B, H) -> (B, V): logits of Bernoulli ones, means of Gaussian ones."""
    return hidden @ machine["kernel"].astype(hidden.dtype).T + machine["visible_bias"].astype(hidden.dtype)[None]


def draw(key: Array, total: Array, units: str) -> Array:
    """Returns states of units that get this."""
    if units == "bernoulli":
        return jax.random.bernoulli(key, jax.nn.sigmoid(total)).astype(total.dtype)
    return total + jax.random.normal(key, total.shape, total.dtype)


def mean_of(total: Array, units: str) -> Array:
    """Returns the mean of units that get this."""
    return jax.nn.sigmoid(total) if units == "bernoulli" else total


def gibbs(
    machine: Machine,
    visible: Array,
    key: Array,
    steps: int,
    *,
    visible_units: str = "bernoulli",
    units: str = "bernoulli",
    labels: int = 0,
    clamped: bool = False,
) -> Array:
    """Returns the visible units (B, V) after some steps of block Gibbs sampling, hidden units first.

    Args:
      machine: the parameters.
      visible: where the chains begin.
      key: of the draws.
      steps: how many times both sides are drawn.
      visible_units: "bernoulli" or "gaussian".
      units: of the hidden ones, likewise.
      labels: how many of the visible units, the last ones, are one choice, of which exactly one is on.
      clamped: whether those stay what they are.
    """
    plain = visible.shape[-1] - labels

    def step(visible: Array, number: Array) -> tuple[Array, None]:
        keys = jax.random.split(jax.random.fold_in(key, number), 3)
        hidden = draw(keys[0], hidden_input(machine, visible), units)
        total = visible_input(machine, hidden)
        drawn = draw(keys[1], total[:, :plain], visible_units)
        if not labels:
            return drawn, None
        chosen = jax.nn.one_hot(jax.random.categorical(keys[2], total[:, plain:]), labels, dtype=total.dtype)
        return jnp.concatenate([drawn, visible[:, plain:] if clamped else chosen], 1), None

    return jax.lax.scan(step, visible, jnp.arange(steps))[0]


def log_partition(machine: Machine, *, visible_units: str = "bernoulli", labels: int = 0) -> Array:
    """Returns log Z, exactly, by enumerating the states of the hidden units, which are Bernoulli.

    Args:
      machine: the parameters, of at most 20 hidden units.
      visible_units: "bernoulli" or "gaussian".
      labels: as for `gibbs`.

    Raises:
      ConfigError: there are more hidden units.
    """
    count = machine["hidden_bias"].shape[0]
    if count > _MOST:
        raise ConfigError(
            f"log_partition: expected at most {_MOST} hidden units, got {count}: use annealed_log_partition"
        )
    kernel = machine["kernel"]
    states = ((jnp.arange(2**count)[:, None] >> jnp.arange(count)[None]) & 1).astype(kernel.dtype)
    total = visible_input(machine, states)
    plain = total.shape[1] - labels
    if visible_units == "bernoulli":
        visible = jax.nn.softplus(total[:, :plain]).sum(1)
    else:
        bias = machine["visible_bias"][None, :plain]
        visible = 0.5 * (jnp.square(total[:, :plain]) - jnp.square(bias)).sum(1) + plain / 2 * math.log(2 * math.pi)
    if labels:
        visible += jax.nn.logsumexp(total[:, plain:], axis=1)
    return jax.nn.logsumexp(states @ machine["hidden_bias"] + visible)


def annealed_log_partition(
    machine: Machine, key: Array, *, chains: int = 100, temperatures: int = 1000, base_bias: Array | None = None
) -> tuple[Array, Array]:
    """Estimates log Z of a Bernoulli machine by annealed importance sampling.

    Salakhutdinov & Murray (2008), doi:10.1145/1390156.1390266: chains go from independent units to the machine.

    Args:
      machine: the parameters.
      key: of the draws.
      chains: how many, each of which is one weight.
      temperatures: steps from one to the other, evenly spaced.
      base_bias: (V,) of the units that the chains begin with; by default the machine's visible biases. The logits of
        the data's means are better.

    Returns:
      log Z, and the standard deviation of the estimate of Z divided by it.
    """
    bias = machine["visible_bias"] if base_bias is None else base_bias
    hidden = machine["hidden_bias"].shape[0]

    def at(beta: Array) -> Machine:
        beta = beta.astype(bias.dtype)
        return {
            "kernel": beta * machine["kernel"],
            "hidden_bias": beta * machine["hidden_bias"],
            "visible_bias": (1 - beta) * bias + beta * machine["visible_bias"],
        }

    def step(carry: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        visible, weights = carry
        before, after = at(number / temperatures), at((number + 1) / temperatures)
        weights += free_energy(before, visible) - free_energy(after, visible)
        return (gibbs(after, visible, jax.random.fold_in(key, number), 1), weights), None

    first = draw(jax.random.fold_in(key, temperatures), jnp.broadcast_to(bias, (chains, bias.shape[0])), "bernoulli")
    weights = jnp.zeros(chains, first.dtype)
    (_, weights), _ = jax.lax.scan(step, (first, weights), jnp.arange(temperatures))
    log_mean = jax.nn.logsumexp(weights) - math.log(chains)
    base = hidden * math.log(2) + jax.nn.softplus(bias).sum()
    return base + log_mean, jnp.exp(weights - log_mean).std(ddof=1) / math.sqrt(chains)


def pseudo_log_likelihood(machine: Machine, visible: Array, key: Array) -> Array:
    """Returns an estimate of sum_i log p(v_i | the others), (B, V) -> (B,), of Bernoulli units.

    One unit of each row, at random, is flipped: V times its term is the estimate.
    """
    batch, count = visible.shape
    chosen = jax.nn.one_hot(jax.random.randint(key, (batch,), 0, count), count, dtype=visible.dtype)
    flipped = visible + chosen * (1 - 2 * visible)
    return count * jax.nn.log_sigmoid(free_energy(machine, flipped) - free_energy(machine, visible))


def log_likelihood_bound(
    machines: Sequence[Machine], visible: Array, key: Array, log_partition: Array | float
) -> Array:
    """Returns an estimate of the variational bound of log p(v), (B, V) -> (B,), of a stack of Bernoulli machines.

    Equation 8 of Hinton, Osindero & Teh with one draw of each layer: log p(below | above) - log q(above | below) summed
    over the layers, and log p of the last machine. Of one machine it is log p(v) itself; of more, its mean over keys is
    at most that.

    Args:
      machines: from the bottom up; a machine's visible units are the hidden ones of that below.
      visible: 0 and 1.
      key: of the draws.
      log_partition: log Z of the last machine.
    """
    total = jnp.zeros(visible.shape[:1], visible.dtype)
    for number, machine in enumerate(machines[:-1]):
        up = hidden_input(machine, visible)
        above = draw(jax.random.fold_in(key, number), up, "bernoulli")
        total += _nats(up, above) - _nats(visible_input(machine, above), visible)
        visible = above
    return total - free_energy(machines[-1], visible) - log_partition


def machines_of(params: dict[str, Any]) -> list[Machine]:
    """Returns the machines that a `DBN` with these parameters is a stack of, from the bottom up; without labels.

    Raises:
      ShapeError: these aren't the parameters of such a network.
    """
    if not _layers(params):
        raise ShapeError(f"params: expected those of a deep belief network, got {sorted(params)}")
    return [
        {
            "kernel": params[f"layer{i}_kernel"],
            "visible_bias": params[f"layer{i}_bias"],
            "hidden_bias": params[f"layer{i + 1}_bias"],
        }
        for i in range(_layers(params))
    ]


class RBM(nn.Module):
    """A restricted Boltzmann machine.

    The call takes images (B, H, W, C), for Bernoulli units in [0, 1], and returns a dict of "code" (B, hidden_size),
    the means of the hidden units, "reconstruction" (B, H, W, C), the means of the visible ones given these, and
    "free_energy" (B,). With `sampling_key` there is also "chain_free_energy" (N,), that of what Gibbs sampling gives
    after some steps, taken for constant: the gradient of the difference of the two means is that of contrastive
    divergence; and, of Bernoulli units, "pseudo_log_likelihood" (B,). Raises ShapeError if images have another shape
    than `image_shape`, and ConfigError if the units are unknown.

    Attributes:
      hidden_size: number of hidden units.
      visible_units: "bernoulli" or "gaussian".
      units: of the hidden ones, likewise.
      num_chains: of persistent chains, Tieleman (2008), doi:10.1145/1390156.1390290, which are the collection "chains"
        and go on from step to step of the training; 0 for chains that begin at the images.
      image_shape: (H, W, C).
    """

    hidden_size: int = 500
    visible_units: str = "bernoulli"
    units: str = "bernoulli"
    num_chains: int = 0
    image_shape: tuple[int, int, int] = (28, 28, 1)

    def setup(self) -> None:
        _check_units(visible_units=self.visible_units, units=self.units)
        size, zeros = math.prod(self.image_shape), nn.initializers.zeros
        self.machine = {
            "kernel": self.param("kernel", nn.initializers.normal(0.01), (size, self.hidden_size), jnp.float32),
            "visible_bias": self.param("visible_bias", zeros, (size,), jnp.float32),
            "hidden_bias": self.param("hidden_bias", zeros, (self.hidden_size,), jnp.float32),
        }
        if self.num_chains:
            start = jax.random.bernoulli(jax.random.key(0), 0.5, (self.num_chains, size))
            self.chains = self.variable("chains", "visible", lambda: start.astype(jnp.float32))

    def __call__(
        self, images: Array, sampling_key: Array | None = None, steps: int = 1, train: bool = False
    ) -> dict[str, Array]:
        check_images(images, **dict(zip(("height", "width", "channels"), self.image_shape, strict=True)))
        kinds = dict(visible_units=self.visible_units, units=self.units)
        visible = images.reshape(images.shape[0], -1)
        code = mean_of(hidden_input(self.machine, visible), self.units)
        back = mean_of(visible_input(self.machine, code), self.visible_units)
        outputs = {
            "code": code,
            "reconstruction": back.reshape(images.shape),
            "free_energy": free_energy(self.machine, visible, **kinds),
        }
        if sampling_key is None:
            return outputs
        start = self.chains.value.astype(visible.dtype) if self.num_chains else visible
        end = jax.lax.stop_gradient(gibbs(self.machine, start, jax.random.fold_in(sampling_key, 0), steps, **kinds))
        if self.num_chains and train and not self.is_initializing():
            self.chains.value = end.astype(self.chains.value.dtype)
        outputs["chain_free_energy"] = free_energy(self.machine, end, **kinds)
        if self.visible_units == self.units == "bernoulli":
            key = jax.random.fold_in(sampling_key, 1)
            outputs["pseudo_log_likelihood"] = pseudo_log_likelihood(self.machine, visible, key)
        return outputs

    def sample(self, key: Array, count: int, steps: int = 1000) -> Array:
        """Returns the means of images (count, H, W, C) after some steps of Gibbs sampling from noise."""
        size = math.prod(self.image_shape)
        start = draw(jax.random.fold_in(key, 0), jnp.zeros((count, size)), self.visible_units)
        kinds = dict(visible_units=self.visible_units, units=self.units)
        visible = gibbs(self.machine, start, jax.random.fold_in(key, 1), steps, **kinds)
        hidden = draw(jax.random.fold_in(key, 2), hidden_input(self.machine, visible), self.units)
        back = mean_of(visible_input(self.machine, hidden), self.visible_units)
        return back.reshape(count, *self.image_shape)


class DBN(nn.Module):
    """Figure 1 of Hinton, Osindero & Teh: directed layers, and above them a machine that has the labels beside it.

    Each two neighbouring layers are a Boltzmann machine while they learn, from the bottom up: `layer` says which. The
    units of a layer have one bias, so that the machine above begins where the one below ended.

    The call takes images (B, H, W, C) in [0, 1] and, where there are classes, `label` (B,) of integers, without which
    the labels are summed over. It returns a dict of "code", the means of the highest units given the images,
    "reconstruction" (B, H, W, C), what the layers make of these on the way down, "free_energy" (B,) of the machine of
    `layer`, its visible units drawn from the layers below by `sampling_key` and else their means, and with classes
    "label_logits" (B, num_classes), of the top machine. With `sampling_key` there is "chain_free_energy" (B,) as in
    `RBM`. With recognition weights of its own, with `sampling_key` and without `layer`, there are also "wake" and
    "sleep" (B,), in nats: how unlikely the directed layers find what recognition makes of the images, and recognition
    what they make of the top machine's chains. Raises ShapeError if images have another shape than `image_shape`, and
    ConfigError if an argument doesn't fit.

    Attributes:
      hidden_sizes: units of each layer above the images.
      num_classes: units of the label; 0 for a network without.
      code_units: the highest ones, "bernoulli" or "gaussian".
      recognition: whether the way up has weights of its own, as the up-down algorithm wants, and not the transposed
        ones of the way down; see `untie`.
      image_shape: (H, W, C).
    """

    hidden_sizes: tuple[int, ...] = (500, 500, 2000)
    num_classes: int = 10
    code_units: str = "bernoulli"
    recognition: bool = False
    image_shape: tuple[int, int, int] = (28, 28, 1)

    def setup(self) -> None:
        _check_units(code_units=self.code_units)
        normal, zeros = nn.initializers.normal(0.01), nn.initializers.zeros
        sizes = (math.prod(self.image_shape), *self.hidden_sizes)
        pairs = list(itertools.pairwise(sizes))
        self.kernels = [self.param(f"layer{i}_kernel", normal, pair, jnp.float32) for i, pair in enumerate(pairs)]
        self.biases = [self.param(f"layer{i}_bias", zeros, (size,), jnp.float32) for i, size in enumerate(sizes)]
        if self.num_classes:
            self.label_kernel = self.param("label_kernel", normal, (self.num_classes, sizes[-1]), jnp.float32)
            self.label_bias = self.param("label_bias", zeros, (self.num_classes,), jnp.float32)
        if self.recognition:
            self.up_kernels = [
                self.param(f"up{i}_kernel", normal, pair, jnp.float32) for i, pair in enumerate(pairs[:-1])
            ]
            self.up_biases = [
                self.param(f"up{i}_bias", zeros, (size,), jnp.float32) for i, size in enumerate(sizes[1:-1])
            ]

    def __call__(
        self,
        images: Array,
        label: Array | None = None,
        sampling_key: Array | None = None,
        steps: int = 1,
        layer: int | None = None,
        train: bool = False,
    ) -> dict[str, Array]:
        check_images(images, **dict(zip(("height", "width", "channels"), self.image_shape, strict=True)))
        if label is not None and not self.num_classes:
            raise ConfigError("label: this network has num_classes=0 and takes no label")
        last = len(self.hidden_sizes) - 1
        number = last if layer is None else layer
        if not 0 <= number <= last:
            raise ConfigError(f"layer: expected 0 to {last}, got {layer}")
        pixels = images.reshape(images.shape[0], -1)
        means = self._up(pixels, None)
        code = mean_of(hidden_input(self._machine(last), means[-1]), self.code_units)
        outputs = {"code": code, "reconstruction": self._down(code, None)[-1].reshape(images.shape)}
        if self.num_classes:
            outputs["label_logits"] = -self._energies_of_labels(means[-1])

        states = means if sampling_key is None else self._up(pixels, jax.random.fold_in(sampling_key, 0))
        below = [pixels, *states[1:]][number]
        top = number == last and self.num_classes > 0
        machine = self._machine(number, labels=top and label is not None)
        kinds = dict(units=self.code_units if number == last else "bernoulli")
        if top and label is not None:
            below = jnp.concatenate([below, jax.nn.one_hot(label, self.num_classes, dtype=below.dtype)], 1)
        if top and label is None:
            outputs["free_energy"] = -jax.nn.logsumexp(-self._energies_of_labels(below), axis=1)
        else:
            outputs["free_energy"] = free_energy(machine, below, **kinds)
        if sampling_key is None:
            return outputs
        key = jax.random.fold_in(sampling_key, 1)
        if top and label is None:
            raise ConfigError("label: expected (B,) integers, as a chain of the top machine begins with them")
        labels = self.num_classes if top else 0
        end = jax.lax.stop_gradient(gibbs(machine, below, key, steps, labels=labels, **kinds))
        outputs["chain_free_energy"] = free_energy(machine, end, **kinds)
        if self.recognition and layer is None:
            fantasy = end[:, : self.hidden_sizes[-2]]
            outputs |= {"wake": self._wake(states), "sleep": self._sleep(fantasy, jax.random.fold_in(sampling_key, 2))}
        return outputs

    def sample(self, key: Array, count: int, label: Array | None = None, steps: int = 200) -> Array:
        """Returns the means of images (count, H, W, C): steps of Gibbs sampling at the top, then the way down.

        Args:
          key: of the draws.
          count: number of images.
          label: (count,) integers, which stay clamped; without them the labels are drawn too.
          steps: of Gibbs sampling.
        """
        last = len(self.hidden_sizes) - 1
        machine, width = (
            self._machine(last, labels=self.num_classes > 0),
            (math.prod(self.image_shape), *self.hidden_sizes)[last],
        )
        start = draw(jax.random.fold_in(key, 0), jnp.zeros((count, width)), "bernoulli")
        if self.num_classes:
            drawn = jax.random.randint(jax.random.fold_in(key, 1), (count,), 0, self.num_classes)
            hot = jax.nn.one_hot(drawn if label is None else label, self.num_classes, dtype=start.dtype)
            start = jnp.concatenate([start, hot], 1)
        clamped = label is not None
        state = gibbs(
            machine,
            start,
            jax.random.fold_in(key, 2),
            steps,
            units=self.code_units,
            labels=self.num_classes,
            clamped=clamped,
        )
        hidden = draw(jax.random.fold_in(key, 3), hidden_input(machine, state), self.code_units)
        return self._down(hidden, jax.random.fold_in(key, 4))[-1].reshape(count, *self.image_shape)

    def _machine(self, layer: int, labels: bool = False) -> Machine:
        machine = {
            "kernel": self.kernels[layer],
            "visible_bias": self.biases[layer],
            "hidden_bias": self.biases[layer + 1],
        }
        if labels:
            machine["kernel"] = jnp.concatenate([machine["kernel"], self.label_kernel])
            machine["visible_bias"] = jnp.concatenate([machine["visible_bias"], self.label_bias])
        return machine

    def _energies_of_labels(self, below: Array) -> Array:
        """The free energy of the top machine with each label, (B, num_classes)."""
        last = len(self.hidden_sizes) - 1
        total = hidden_input(self._machine(last), below)[:, None] + self.label_kernel.astype(below.dtype)[None]
        hidden = jax.nn.softplus(total) if self.code_units == "bernoulli" else 0.5 * jnp.square(total)
        visible = (below @ self.biases[last].astype(below.dtype))[:, None] + self.label_bias.astype(below.dtype)[None]
        return -visible - hidden.sum(-1)

    def _recognised(self, layer: int, below: Array) -> Array:
        if self.recognition:
            return below @ self.up_kernels[layer].astype(below.dtype) + self.up_biases[layer].astype(below.dtype)[None]
        return hidden_input(self._machine(layer), below)

    def _up(self, pixels: Array, key: Array | None) -> list[Array]:
        """The images and the layers up to the top machine's visible units: drawn with a key, their means without."""
        states = [pixels if key is None else draw_pixels(jax.random.fold_in(key, 0), pixels)]
        for i in range(len(self.hidden_sizes) - 1):
            total = self._recognised(i, states[-1])
            drawn = jax.nn.sigmoid(total) if key is None else draw(jax.random.fold_in(key, i + 1), total, "bernoulli")
            states.append(jax.lax.stop_gradient(drawn) if key is not None else drawn)
        return states

    def _down(self, code: Array, key: Array | None) -> list[Array]:
        """The layers below the highest, the images' means last: drawn with a key, means without."""
        states = [code]
        for i in reversed(range(len(self.hidden_sizes))):
            total = visible_input(self._machine(i), states[-1])
            plain = key is None or i == 0
            states.append(jax.nn.sigmoid(total) if plain else draw(jax.random.fold_in(key, i), total, "bernoulli"))
        return states

    def _wake(self, states: list[Array]) -> Array:
        layers = range(len(self.hidden_sizes) - 1)
        return sum(_nats(visible_input(self._machine(i), states[i + 1]), states[i]) for i in layers)

    def _sleep(self, fantasy: Array, key: Array) -> Array:
        states, layers = [fantasy], range(len(self.hidden_sizes) - 1)
        for i in reversed(layers):
            total = visible_input(self._machine(i), states[0])
            states.insert(0, jax.lax.stop_gradient(draw(jax.random.fold_in(key, i), total, "bernoulli")))
        return sum(
            (_nats(self._recognised(i, states[i]), states[i + 1]) for i in layers), jnp.zeros_like(fantasy[:, 0])
        )


def draw_pixels(key: Array, pixels: Array) -> Array:
    """Returns states of units that are on with these probabilities."""
    return jax.random.bernoulli(key, pixels).astype(pixels.dtype)


def _nats(logits: Array, states: Array) -> Array:
    return (jax.nn.softplus(logits) - logits * states).sum(-1)


def untie(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a `DBN` with recognition weights of its own: those of its layers, as they are.

    Args:
      params: of a network without.

    Raises:
      ShapeError: these aren't the parameters of a network of two layers or more.
    """
    layers = _layers(params)
    if layers < 2:
        raise ShapeError(f"params: expected those of a network of two layers or more, got {sorted(params)}")
    own = {f"up{i}_kernel": params[f"layer{i}_kernel"] for i in range(layers - 1)}
    return params | own | {f"up{i}_bias": params[f"layer{i + 1}_bias"] for i in range(layers - 1)}


def unroll(params: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters of the `autoencoder.Autoencoder` that a `DBN` without labels is unrolled to.

    The way down has its kernels, the way up the transposed ones: figure 1 of Hinton & Salakhutdinov.

    Args:
      params: of the network.

    Raises:
      ShapeError: these aren't the parameters of such a network.
    """
    layers = _layers(params)
    if not layers or "label_kernel" in params:
        raise ShapeError(f"params: expected those of a network without labels, got {sorted(params)}")
    down = {
        f"down{i}": {"kernel": params[f"layer{i}_kernel"], "bias": params[f"layer{i + 1}_bias"]} for i in range(layers)
    }
    up = {f"up{i}": {"kernel": params[f"layer{i}_kernel"].T, "bias": params[f"layer{i}_bias"]} for i in range(layers)}
    return down | up


def _layers(params: dict[str, Any]) -> int:
    return sum(name.startswith("layer") and name.endswith("_kernel") for name in params)


def _check_units(**kinds: str) -> None:
    for name, kind in kinds.items():
        if kind not in UNITS:
            raise unknown(name, kind, UNITS)


_1986 = "Smolensky (1986); Hinton (2002), doi:10.1162/089976602760128018"
_2006 = "Hinton, Osindero & Teh (2006), doi:10.1162/neco.2006.18.7.1527"
_MNIST, _SMALL = images(28, 28, 1), images(4, 4, 1)
_TINY = dict(hidden_sizes=(8, 6, 5), num_classes=3, image_shape=(4, 4, 1))

VARIANTS = {
    "rbm": Variant(RBM, {}, _MNIST, 393_284, 1986, _1986),
    "dbn_2006": Variant(DBN, {}, _MNIST, 1_665_794, 2006, _2006),
    "boltzmann_tiny": Variant(RBM, dict(hidden_size=6, image_shape=(4, 4, 1)), _SMALL, 118, 1986, _1986),
    "dbn_tiny": Variant(DBN, _TINY, _SMALL, 259, 2006, _2006),
}
