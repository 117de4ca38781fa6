"""Denoising: from noise to a sample, call by call of a model that was trained to undo noise.

A process takes clean data x0 to x = signal * x0 + level * n, n standard normal noise. What a model predicts of it, its
parametrisation, is data here, `PREDICTIONS`; and so is a sampler: for each call of the model a row of `Rows` says what
the model is told and how a linear step goes on from there,

    estimate = clip(estimate_x * x + estimate_output * output)
    x        = keep * x + anchor * (x of an earlier row) + sum_k history[k] * (estimate, k calls ago)
               + output * output + noise * z

so that `denoise` is one loop for all of them, on the device. The rows are those of diffusers' schedulers of the same
names, in float32 where theirs are, such that each step gives what theirs does. N calls, T steps of training, K
estimates that are kept, ... the axes of a sample.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from deepmodels.errors import ConfigError, unknown

Pair = tuple[Any, Any]
Forward = Callable[[Array, Array], Array]


class Prediction(NamedTuple):
    """What the output of a model means: three pairs of factors, as functions of (signal, level).

    Attributes:
      target: of the clean data and of the noise in what the model should give.
      clean: of x and of the output in the clean data.
      noise: of x and of the output in the noise.
    """

    target: Callable[[Any, Any], Pair]
    clean: Callable[[Any, Any], Pair]
    noise: Callable[[Any, Any], Pair]


def edm_prediction(sigma_data: float = 0.5) -> Prediction:
    """Returns the preconditioning of Karras, Aittala, Aila & Laine (2022), arXiv:2206.00364, table 1, signal 1.

    Args:
      sigma_data: standard deviation of the clean data.
    """

    def target(signal: Any, level: Any) -> Pair:
        root = (level**2 + sigma_data**2) ** 0.5
        return level / (sigma_data * root), -sigma_data / root

    def clean(signal: Any, level: Any) -> Pair:
        total = level**2 + sigma_data**2
        return sigma_data**2 / total, level * sigma_data / total**0.5

    def noise(signal: Any, level: Any) -> Pair:
        total = level**2 + sigma_data**2
        return level / total, -sigma_data / total**0.5

    return Prediction(target, clean, noise)


PREDICTIONS: dict[str, Prediction] = {
    # the noise: Ho, Jain & Abbeel (2020), arXiv:2006.11239
    "epsilon": Prediction(lambda a, s: (0.0, 1.0), lambda a, s: (1 / a, -s / a), lambda a, s: (0.0, 1.0)),
    # the clean data
    "sample": Prediction(lambda a, s: (1.0, 0.0), lambda a, s: (0.0, 1.0), lambda a, s: (1 / s, -a / s)),
    # signal * noise - level * data: Salimans & Ho (2022), arXiv:2202.00512
    "v": Prediction(lambda a, s: (-s, a), lambda a, s: (a, -s), lambda a, s: (s, a)),
    # noise - data, where signal + level = 1: Lipman, Chen, Ben-Hamu, Nickel & Le (2022), arXiv:2210.02747
    "flow": Prediction(lambda a, s: (-1.0, 1.0), lambda a, s: (1.0, -s), lambda a, s: (1.0, a)),
    "edm": edm_prediction(),
}


def prediction_of(name: str | Prediction) -> Prediction:
    """Returns the parametrisation of a name, or what is given if it is one.

    Raises:
      ConfigError: there is none of that name.
    """
    if isinstance(name, Prediction):
        return name
    if name not in PREDICTIONS:
        raise unknown("prediction", name, PREDICTIONS)
    return PREDICTIONS[name]


def linear_betas(num_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """Returns variances that grow linearly, (T,) float32: section 4 of Ho, Jain & Abbeel (2020)."""
    first, last = np.float32(first), np.float32(last)
    step, i = np.float64((last - first) / np.float32(num_steps - 1)), np.arange(num_steps)
    return np.where(i < num_steps // 2, first + step * i, last - step * (num_steps - 1 - i)).astype(np.float32)


def scaled_linear_betas(num_steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> np.ndarray:
    """Returns variances whose roots grow linearly, (T,) float32: those of latent diffusion, arXiv:2112.10752."""
    return linear_betas(num_steps, first**0.5, last**0.5) ** 2


def cosine_betas(num_steps: int = 1000, largest: float = 0.999) -> np.ndarray:
    """Returns variances whose products fall like a squared cosine, (T,) float32.

    Nichol & Dhariwal (2021), arXiv:2102.09672, equation 17.
    """
    power = [math.cos((i / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(num_steps + 1)]
    return np.array([min(1 - b / a, largest) for a, b in itertools.pairwise(power)], np.float32)


BETAS: dict[str, Callable[..., np.ndarray]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "cosine": cosine_betas,
}


def signal_powers(betas: str | np.ndarray = "linear", num_steps: int = 1000) -> np.ndarray:
    """Returns the squares of a process's signal, the products of 1 - beta, (T,) float32; level**2 is the rest to 1.

    Args:
      betas: the variance that each step adds, (T,), or a key of `BETAS`.
      num_steps: T, for a name.

    Raises:
      ConfigError: there is none of that name.
    """
    if isinstance(betas, str):
        if betas not in BETAS:
            raise unknown("noise schedule", betas, BETAS)
        betas = BETAS[betas](num_steps)
    return np.cumprod(1 - np.asarray(betas, np.float32), dtype=np.float64).astype(np.float32)


class Rows(NamedTuple):
    """What a sampler does at each of N calls of the model, see this file's head; arrays (N,) of float32.

    Attributes:
      timestep: what the model is told.
      scale: factor of x in what the model sees.
      signal: of the process in what x is before the row.
      level: likewise.
      estimate_x: factor of x in the estimate.
      estimate_output: factor of the output in the estimate.
      keep: factor of x.
      anchor: factor of x as it was before the last row that remembers it.
      remember: 1 where x is such an anchor for later rows, else 0.
      history: (N, K), factors of the estimates of this row and the K - 1 before it.
      output: factor of the output.
      noise: factor of new noise.
    """

    timestep: np.ndarray
    scale: np.ndarray
    signal: np.ndarray
    level: np.ndarray
    estimate_x: np.ndarray
    estimate_output: np.ndarray
    keep: np.ndarray
    anchor: np.ndarray
    remember: np.ndarray
    history: np.ndarray
    output: np.ndarray
    noise: np.ndarray


class Sampler(NamedTuple):
    """A table of steps, and what isn't of one step.

    Attributes:
      rows: the steps.
      start: standard deviation of the noise that it begins with.
      clip: largest absolute value of an estimate; None for any.
    """

    rows: Rows
    start: float = 1.0
    clip: float | None = None


def denoise(
    forward: Forward,
    x: Array,
    sampler: Sampler,
    *,
    key: Array | None = None,
    noise: Array | None = None,
    after: Callable[[Array, Array, Array], Array] | None = None,
    on_step: Callable[[Any], None] | None = None,
    trace: bool = False,
) -> Array | tuple[Array, Array]:
    """Returns what a sampler makes of noise: one loop on the device, however many steps there are.

    Args:
      forward: `forward(x, timestep) -> output`, arrays (...) and () to (...).
      x: (...) floats, `sampler.start` times standard normal noise; or for a sampler that begins in the middle what
        `noised` returns.
      sampler: as the functions of this file return it.
      key: of new noise, for a sampler that adds any.
      noise: standard normal noise (N, ...) in place of a key.
      after: `after(x, signal, level) -> x`, called with each step's result and the process there: to hold a part of it.
      on_step: called on the host with the number of each step when it is done; for a display of progress.
      trace: whether x after each step is returned too.

    Returns:
      (...), and with `trace` also (N, ...), the last of which is the same.

    Raises:
      ConfigError: the sampler adds noise, and there is neither a key nor noise.
    """
    rows, count = sampler.rows, len(sampler.rows.timestep)
    noisy, anchored = rows.noise.any(), rows.anchor.any()
    if noisy and key is None and noise is None:
        raise ConfigError("key: this sampler adds noise at its steps: give it a key")
    used = [k for k in range(rows.history.shape[1]) if rows.history[:, k].any()]
    following = (np.append(rows.signal[1:], np.float32(1)), np.append(rows.level[1:], np.float32(0)))

    def step(carry: tuple, inputs: tuple) -> tuple:
        x, anchor, history = carry
        number, row, (signal, level), given = inputs
        output = forward(x * row.scale, row.timestep).astype(x.dtype)
        estimate = row.estimate_x * x + row.estimate_output * output
        if sampler.clip is not None:
            estimate = jnp.clip(estimate, -sampler.clip, sampler.clip)
        history = (estimate, *history[:-1])
        new = row.keep * x + row.output * output + sum(row.history[k] * history[k] for k in used)
        if anchored:
            new += row.anchor * anchor
            anchor = jnp.where(row.remember > 0, x, anchor)
        if noisy:
            z = given
            if z is None:
                z = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
            new += row.noise * z.astype(x.dtype)
        if after is not None:
            new = after(new, signal, level)
        if on_step is not None:
            jax.debug.callback(on_step, number)
        return (new, anchor, history), new if trace else None

    def as_floats(array: np.ndarray) -> Array:
        return jnp.asarray(array, x.dtype)

    inputs = (jnp.arange(count), *jax.tree.map(as_floats, (rows, following)), noise)
    empty = (jnp.zeros_like(x),) * rows.history.shape[1]
    (x, _, _), xs = jax.lax.scan(step, (x, jnp.zeros_like(x) if anchored else None, empty), inputs)
    return (x, xs) if trace else x


def noised(sampler: Sampler, clean: Array, noise: Array) -> Array:
    """Returns what a sampler begins with if it is to change clean data (...), by standard normal noise (...)."""
    first = sampler.rows.signal[0], sampler.rows.level[0]
    signal, level = (jnp.asarray(value, clean.dtype) for value in first)
    return signal * clean + level * noise


def skipped(steps: int, strength: float) -> int:
    """Returns how many of a sampler's steps are left out where data are changed as strongly as this, in [0, 1].

    Raises:
      ConfigError: the strength is outside, or so small that no step is left.
    """
    if not 0 < strength <= 1 or int(steps * strength) < 1:
        raise ConfigError(f"strength: expected at most 1, and of {steps} steps at least {1 / steps:g}, got {strength}")
    return steps - int(steps * strength)


def classifier_free(forward: Callable, conditional: Any, unconditional: Any, scale: float) -> Forward:
    """Returns a forward function with classifier-free guidance: both answers come of one call of twice the batch.

    Ho & Salimans (2022), arXiv:2207.12598, with the weight as later work writes it: 1 is no guidance.

    Args:
      forward: `forward(x, timestep, condition) -> output`.
      conditional: arrays whose first axis is the batch.
      unconditional: likewise, what stands for no condition.
      scale: of the difference that the condition makes.
    """
    if scale == 1:
        return lambda x, timestep: forward(x, timestep, conditional)
    both = jax.tree.map(lambda u, c: jnp.concatenate([u, c]), unconditional, conditional)

    def guided(x: Array, timestep: Array) -> Array:
        without, told = jnp.split(forward(jnp.concatenate([x, x]), timestep, both), 2)
        return without + scale * (told - without)

    return guided


def classifier_guided(
    forward: Forward, log_probability: Callable[[Array, Array], Array], powers: np.ndarray, scale: float = 1.0
) -> Forward:
    """Returns a forward function of a model that predicts noise, guided by a classifier of noisy data.

    Dhariwal & Nichol (2021), arXiv:2105.05233, algorithm 2.

    Args:
      forward: `forward(x, timestep) -> noise`.
      log_probability: `log_probability(x, timestep) -> (B,)` of the class that is wanted.
      powers: of the process, as `signal_powers` returns them.
      scale: of the classifier's gradient.
    """
    levels = np.sqrt(1 - powers)

    def guided(x: Array, timestep: Array) -> Array:
        slope = jax.grad(lambda x: log_probability(x, timestep).sum())(x)
        level = jnp.asarray(levels, x.dtype)[timestep.astype(jnp.int32)]
        return forward(x, timestep) - scale * level * slope

    return guided


def ddpm(
    powers: np.ndarray,
    steps: int,
    *,
    prediction: str | Prediction = "epsilon",
    clip: float | None = 1.0,
    variance: str = "small",
    spacing: str = "leading",
    offset: int = 0,
    begin: int = 0,
) -> Sampler:
    """Returns the ancestral sampler of Ho, Jain & Abbeel (2020), arXiv:2006.11239, algorithm 2.

    Args:
      powers: of the process, as `signal_powers` returns them, (T,).
      steps: calls of the model.
      prediction: a key of `PREDICTIONS`.
      clip: of estimates.
      variance: of the noise: "small", the posterior's of a point, or "large", the forward step's.
      spacing: of the timesteps, see `spaced`.
      offset: added to timesteps that are "leading".
      begin: steps that are left out at the beginning.

    Raises:
      ConfigError: a name is unknown, or there are more steps than T.
    """
    if variance not in ("small", "large"):
        raise unknown("variance", variance, ("small", "large"))
    times = spaced(spacing, steps, len(powers), offset)
    power, before = powers[times], np.append(powers[times[1:]], np.float32(1))
    ratio = power / before
    rest, rest_before, beta = 1 - power, 1 - before, 1 - ratio
    spread = np.maximum(rest_before / rest * beta, np.float32(1e-20)) if variance == "small" else beta
    clean = prediction_of(prediction).clean(np.sqrt(power), np.sqrt(rest))
    rows = _rows(
        times, clean,
        signal=np.sqrt(power), level=np.sqrt(rest),
        keep=np.sqrt(ratio) * rest_before / rest,
        history=np.sqrt(before) * beta / rest,
        noise=np.where(times > 0, np.sqrt(spread), 0),
    )  # fmt: skip
    return Sampler(_from(rows, begin), clip=clip)


def ddim(
    powers: np.ndarray,
    steps: int,
    *,
    prediction: str | Prediction = "epsilon",
    clip: float | None = 1.0,
    eta: float = 0.0,
    spacing: str = "leading",
    offset: int = 0,
    last_power: float | None = 1.0,
    begin: int = 0,
) -> Sampler:
    """Returns the sampler of Song, Meng & Ermon (2020), arXiv:2010.02502, equation 12.

    Args:
      powers, steps, prediction, clip, spacing, offset, begin: as in `ddpm`.
      eta: 0 adds no noise, 1 as much as `ddpm`.
      last_power: the square of the signal that the last step leads to; None for that of the process's first step.

    Raises:
      ConfigError: a name is unknown, or there are more steps than T.
    """
    times = spaced(spacing, steps, len(powers), offset)
    power, before = powers[times], _before(powers, times - len(powers) // steps, last_power)
    signal, level = np.sqrt(power), np.sqrt(1 - power)
    deviation = np.float32(eta) * np.sqrt((1 - before) / (1 - power) * (1 - power / before))
    kind = prediction_of(prediction)
    direction = np.sqrt(1 - before - deviation**2)
    of_x, of_output = kind.noise(signal, level)
    rows = _rows(
        times, kind.clean(signal, level),
        signal=signal, level=level,
        keep=direction * of_x, history=np.sqrt(before), output=direction * of_output, noise=deviation,
    )  # fmt: skip
    return Sampler(_from(rows, begin), clip=clip)


def pndm(
    powers: np.ndarray,
    steps: int,
    *,
    prediction: str = "epsilon",
    runge_kutta: bool = False,
    spacing: str = "leading",
    offset: int = 0,
    last_power: float | None = None,
    begin: int = 0,
) -> Sampler:
    """Returns the pseudo linear multistep sampler of Liu, Ren, Lin & Zhao (2022), arXiv:2202.09778.

    Args:
      powers, steps, spacing, offset: as in `ddpm`.
      prediction: "epsilon" or "v".
      runge_kutta: whether the first three steps are the paper's, of four calls each; else the first is done twice, as
        latent diffusion has it, which takes one call more than there are steps.
      last_power: as in `ddim`.
      begin: as in `ddpm`.

    Raises:
      ConfigError: a name is unknown, there are more steps than T, or fewer than the method needs.
    """
    if prediction not in ("epsilon", "v"):
        raise unknown("prediction of pndm", str(prediction), ("epsilon", "v"))
    times, stride = spaced(spacing, steps, len(powers), offset)[begin:], len(powers) // steps
    if len(times) < (4 if runge_kutta else 1):
        raise ConfigError(f"steps: pndm with runge_kutta needs at least 4, got {len(times)}")
    told, ways, weights, kept = [], [], [], []  # for each call: timestep, (from, to), {call: weight}, whether anchored
    outputs: list[int] = []  # calls whose outputs the multistep formula looks back at

    def call(timestep: int, way: tuple[int, int], looked: dict[int, float], anchored: bool) -> None:
        told.append(timestep), ways.append(way), weights.append(looked), kept.append(anchored)

    if runge_kutta:
        for time in times[:3]:
            first, half = len(told), time - stride + stride // 2
            outputs.append(first)
            parts = {first: 1 / 6, first + 1: 1 / 3, first + 2: 1 / 3, first + 3: 1 / 6}
            call(time, (time, time - stride // 2), {first: 1.0}, False)
            call(half, (time, half), {first + 1: 1.0}, True)
            call(half, (time, half - stride // 2), {first + 2: 1.0}, True)
            call(time - stride, (time, time - stride), parts, True)
        times = times[3:]
    else:
        outputs.append(0)
        call(times[0], (times[0], times[0] - stride), {0: 1.0}, False)
        if len(times) > 1:
            call(times[1], (times[1] + stride, times[1]), {0: 0.5, 1: 0.5}, True)
        times = times[1:]
    for time in times:
        outputs.append(len(told))
        formula = {2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
        factors = formula[min(len(outputs), 4)]
        call(time, (time, time - stride), dict(zip(outputs[::-1], factors, strict=False)), False)

    source, target = np.transpose(ways)
    power, before = powers[source], _before(powers, target, last_power)
    of_sample = np.sqrt(before / power)
    of_noise = (power - before) / (power * np.sqrt(1 - before) + np.sqrt(power * (1 - power) * before))
    if prediction == "v":
        of_sample += of_noise * np.sqrt(1 - power)
        of_noise = of_noise * np.sqrt(power)
    depth = max(number - min(looked) for number, looked in enumerate(weights)) + 1
    history = np.zeros((len(told), depth), np.float32)
    for number, looked in enumerate(weights):
        for other, weight in looked.items():
            history[number, number - other] = weight
    anchored, here = np.array(kept), np.maximum(told, 0)
    rows = _rows(
        np.array(told), (0.0, 1.0),
        signal=np.sqrt(powers[here]), level=np.sqrt(1 - powers[here]),
        keep=np.where(anchored, 0, of_sample), anchor=np.where(anchored, of_sample, 0), remember=~anchored,
        history=history * of_noise[:, None],
    )  # fmt: skip
    return Sampler(rows)


def euler(powers: np.ndarray, steps: int, **options: Any) -> Sampler:
    """Returns Euler's method on the probability flow: algorithm 2 of Karras et al. (2022) without churn.

    Args:
      powers: of the process, as `signal_powers` returns them, (T,); x is data plus noise here, with signal 1.
      steps: calls of the model.
      options: prediction, clip, spacing ("linspace" by default), offset and begin, as `ddpm` takes them, and `karras`,
        whether levels are those of Karras et al. (2022), equation 5, between the process's.

    Raises:
      ConfigError: a name is unknown, or there are more steps than T.
    """
    return _flow_of("euler", powers, steps, **options)


def euler_ancestral(powers: np.ndarray, steps: int, **options: Any) -> Sampler:
    """Returns Euler's method with fresh noise at each step; takes and raises what `euler` does, without `karras`."""
    return _flow_of("ancestral", powers, steps, **options)


def heun(powers: np.ndarray, steps: int, **options: Any) -> Sampler:
    """Returns Heun's method, two calls of the model for all steps but the last: algorithm 1 of Karras et al. (2022).

    Takes and raises what `euler` does.
    """
    return _flow_of("heun", powers, steps, **options)


def edm(
    steps: int,
    *,
    method: str = "heun",
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    sigma_data: float = 0.5,
    rho: float = 7.0,
    clip: float | None = None,
    begin: int = 0,
) -> Sampler:
    """Returns a sampler of a network in the preconditioning of Karras et al. (2022), arXiv:2206.00364, table 1.

    Args:
      steps: number of levels.
      method: "euler", "ancestral" or "heun".
      sigma_min: the last level before 0.
      sigma_max: the first one.
      sigma_data: standard deviation of the data.
      rho: the larger, the more levels are small.
      clip, begin: as in `ddpm`.

    Raises:
      ConfigError: the method is unknown.
    """
    sigmas = _karras(sigma_max, sigma_min, np.linspace(0, 1, steps), rho).astype(np.float32)
    scale, told = 1 / np.sqrt(sigmas**2 + np.float32(sigma_data) ** 2), np.float32(0.25) * np.log(sigmas)
    clean = edm_prediction(sigma_data).clean(np.ones_like(sigmas), sigmas)
    rows = _by_level(method, told, sigmas, scale, clean)
    return Sampler(_from(rows, begin * (2 if method == "heun" else 1)), math.sqrt(sigma_max**2 + 1), clip)


def dpm_solver(
    powers: np.ndarray,
    steps: int,
    *,
    prediction: str | Prediction = "epsilon",
    order: int = 2,
    solver: str = "midpoint",
    stochastic: bool = False,
    karras: bool = False,
    spacing: str = "linspace",
    offset: int = 0,
    lower_order_final: bool = True,
    euler_at_final: bool = False,
    last_level: str = "zero",
    begin: int = 0,
) -> Sampler:
    """Returns DPM-Solver++ in multistep form: Lu, Zhou, Bao, Chen, Li & Zhu (2022), arXiv:2211.01095.

    Args:
      powers, steps, prediction, spacing, offset, begin: as in `ddpm`.
      order: 1, 2 or 3, estimates that a step looks at.
      solver: "midpoint" or "heun", of the second order.
      stochastic: whether the stochastic equation is solved, with new noise at each step; of order 1 or 2.
      karras: as in `euler`.
      lower_order_final: whether fewer than 15 steps end with lower orders.
      euler_at_final: whether the last step is of the first order, however many there are.
      last_level: what the last step leads to: "zero", which is of the first order, or "sigma_min", the process's first.

    Raises:
      ConfigError: a name is unknown, there are more steps than T, or the order is none of these.
    """
    if order not in (1, 2, 3) or (stochastic and order == 3):
        raise ConfigError(f"order: expected 1, 2 or, of a solver that isn't stochastic, 3, got {order}")
    if solver not in ("midpoint", "heun"):
        raise unknown("solver", solver, ("midpoint", "heun"))
    if last_level not in ("zero", "sigma_min"):
        raise unknown("last_level", last_level, ("zero", "sigma_min"))
    total, all_sigmas = len(powers), np.sqrt((1 - powers) / powers)
    if spacing == "trailing":
        times = spaced(spacing, steps, total, offset)
    else:  # one more, which is left out
        times = spaced(spacing, steps + 1, total, offset)[:-1]
    if karras:
        sigmas = _karras(float(all_sigmas[-1]), float(all_sigmas[0]), np.linspace(0, 1, steps))
        times = _times_of(sigmas, all_sigmas).round().astype(np.int64)
    else:
        sigmas = np.interp(times, np.arange(total), all_sigmas)
    sigmas = np.append(sigmas, 0 if last_level == "zero" else all_sigmas[0]).astype(np.float32)
    alpha = 1 / np.sqrt(sigmas**2 + 1)
    sigma = sigmas * alpha
    with np.errstate(divide="ignore"):
        lambdas = np.log(alpha) - np.log(sigma)

    count = len(times)
    keep, noise, history = (
        np.zeros(count, np.float32),
        np.zeros(count, np.float32),
        np.zeros((count, order), np.float32),
    )
    for i in range(begin, count):
        h = lambdas[i + 1] - lambdas[i]
        decay, final = np.exp(-h), i == count - 1
        few = lower_order_final and count < 15
        now = 1 if final and (euler_at_final or few or last_level == "zero") else 2 if i == count - 2 and few else order
        now = min(now, order, i - begin + 1)
        if stochastic:
            keep[i], noise[i] = sigma[i + 1] / sigma[i] * decay, sigma[i + 1] * np.sqrt(1 - decay**2)
            first = alpha[i + 1] * (1 - decay**2)
            second = 0.5 * first if solver == "midpoint" else alpha[i + 1] * ((1 - decay**2) / (-2 * h) + 1)
        else:
            keep[i], first = sigma[i + 1] / sigma[i], alpha[i + 1] * (1 - decay)
            second = 0.5 * first if solver == "midpoint" and now == 2 else alpha[i + 1] * ((decay - 1) / h + 1)
        history[i, 0] = first
        if now == 1:
            continue
        r0 = (lambdas[i] - lambdas[i - 1]) / h
        slope = np.array([1 / r0, -1 / r0] + [0] * (order - 2), np.float32)  # of the estimates, in the first derivative
        if now == 3:
            r1 = (lambdas[i - 1] - lambdas[i - 2]) / h
            difference = slope - np.array([0, 1 / r1, -1 / r1], np.float32)
            slope = slope + r0 / (r0 + r1) * difference
            history[i] -= alpha[i + 1] * ((decay - 1 + h) / h**2 - 0.5) * difference / (r0 + r1)
        history[i] += second * slope
    clean = prediction_of(prediction).clean(alpha[:-1], sigma[:-1])
    rows = _rows(times, clean, signal=alpha[:-1], level=sigma[:-1], keep=keep, history=history, noise=noise)
    return Sampler(_from(rows, begin))


def lcm(
    powers: np.ndarray,
    steps: int,
    *,
    prediction: str | Prediction = "epsilon",
    clip: float | None = None,
    original_steps: int = 50,
    sharpness: float = 10.0,
    strength: float = 1.0,
) -> Sampler:
    """Returns the sampler of a latent consistency model: Luo, Tan, Huang, Li & Zhao (2023), arXiv:2310.04378.

    Args:
      powers, prediction, clip: as in `ddpm`.
      steps: calls of the model.
      original_steps: of the sampler that the model was distilled from.
      sharpness: factor of the timesteps in the boundary condition.
      strength: share of the original steps that is taken, where data are changed.

    Raises:
      ConfigError: a name is unknown, or there are more steps than the original ones.
    """
    original = np.arange(1, int(original_steps * strength) + 1) * (len(powers) // original_steps) - 1
    if not 1 <= steps <= len(original):
        raise ConfigError(f"steps: expected from 1 to the {len(original)} original ones, got {steps}")
    times = original[::-1][np.floor(np.linspace(0, len(original), steps, endpoint=False)).astype(np.int64)]
    power, before = powers[times], np.append(powers[times[1:]], np.float32(1))
    told = times * sharpness
    skip, out = 0.25 / (told**2 + 0.25), told / np.sqrt(told**2 + 0.25)
    clean = prediction_of(prediction).clean(np.sqrt(power), np.sqrt(1 - power))
    rows = _rows(
        times, clean,
        signal=np.sqrt(power), level=np.sqrt(1 - power),
        keep=np.sqrt(before) * skip, history=np.sqrt(before) * out, noise=np.sqrt(1 - before),
    )  # fmt: skip
    return Sampler(rows, clip=clip)


def consistency(
    steps: int,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    sigma_data: float = 0.5,
    rho: float = 7.0,
    num_levels: int = 40,
    clip: float | None = 1.0,
) -> Sampler:
    """Returns the sampler of a consistency model: Song, Dhariwal, Chen & Sutskever (2023), arXiv:2303.01469.

    Args:
      steps: calls of the model.
      sigma_min, sigma_max, sigma_data, rho: as in `edm`.
      num_levels: levels of training, of which each `num_levels // steps`-th is taken.
      clip: of estimates.

    Raises:
      ConfigError: there are more steps than levels.
    """
    if not 1 <= steps <= num_levels:
        raise ConfigError(f"steps: expected from 1 to the {num_levels} levels, got {steps}")
    ramp = np.arange(steps) * (num_levels // steps) / (num_levels - 1)
    levels = _karras(sigma_max, sigma_min, ramp, rho)
    sigmas = np.append(levels, sigma_min).astype(np.float32)
    sigma, lowest = sigmas[:-1], np.float32(sigma_min)
    total = sigma**2 + np.float32(sigma_data**2)
    clean = (sigma_data**2 / ((sigma - lowest) ** 2 + sigma_data**2), (sigma - lowest) * sigma_data / np.sqrt(total))
    noise = np.sqrt(np.clip(sigmas[1:], lowest, sigma_max) ** 2 - lowest**2) if steps > 1 else 0.0
    rows = _rows(
        1000 * 0.25 * np.log(levels), clean,
        scale=1 / np.sqrt(total), signal=1.0, level=sigma, history=np.ones(steps), noise=noise,
    )  # fmt: skip
    return Sampler(rows, sigma_max, clip)


def flow_euler(steps: int, *, shift: float = 1.0, num_steps: int = 1000, begin: int = 0) -> Sampler:
    """Returns Euler's method on a straight flow from noise to data: Esser et al. (2024), arXiv:2403.03206.

    Args:
      steps: calls of the model, which is told `num_steps` times the level.
      shift: above 1, more of the levels are high: section 5.3.2.
      num_steps: T.
      begin: as in `ddpm`.
    """

    def shifted(level: Any) -> Any:
        return shift * level / (1 + (shift - 1) * level)

    lowest = float(np.float32(shifted(np.float32(1) / np.float32(num_steps))))  # to which diffusers shifts twice
    levels = shifted(np.linspace(num_steps, lowest * num_steps, steps) / num_steps).astype(np.float32)
    after = np.append(levels[1:], np.float32(0))
    rows = _rows(
        levels * np.float32(num_steps), PREDICTIONS["flow"].clean(1 - levels, levels),
        signal=1 - levels, level=levels, keep=1.0, output=after - levels, history=np.zeros(steps),
    )  # fmt: skip
    return Sampler(_from(rows, begin))


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "pndm": pndm,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpm_solver": dpm_solver,
    "lcm": lcm,
}  # of a process by its powers


class Levels(NamedTuple):
    """A process at some of its times, arrays (B,); what is trained on sees scale * (signal * clean + level * noise)."""

    signal: Array
    level: Array
    timestep: Array
    scale: Array


CONTINUOUS = ("flow", "flow_logit_normal", "edm")


def drawn_levels(key: Array, process: str, count: int, num_steps: int = 1000, sigma_data: float = 0.5) -> Levels:
    """Returns times of a process at random, as a model is trained at them, in float32.

    Args:
      key: of the draw.
      process: a key of `BETAS`, whose steps are equally likely; "flow", from data to noise in a straight line, all of
        whose levels are, or "flow_logit_normal", those in the middle more, Esser et al. (2024), arXiv:2403.03206,
        section 3.1; "edm", data plus noise of a log-normal level, Karras et al. (2022), arXiv:2206.00364, table 1.
      count: B.
      num_steps: T, of a process with steps; a flow's model is told T times the level.
      sigma_data: standard deviation of the clean data, for "edm".

    Raises:
      ConfigError: the process is unknown.
    """
    if process in BETAS:
        powers = jnp.asarray(signal_powers(process, num_steps))
        step = jax.random.randint(key, (count,), 0, num_steps)
        power = powers[step]
        return Levels(jnp.sqrt(power), jnp.sqrt(1 - power), step.astype(jnp.float32), jnp.ones(count, jnp.float32))
    if process not in CONTINUOUS:
        raise unknown("process", process, (*BETAS, *CONTINUOUS))
    if process == "edm":
        sigma = jnp.exp(-1.2 + 1.2 * jax.random.normal(key, (count,), jnp.float32))
        scale = jax.lax.rsqrt(jnp.square(sigma) + sigma_data**2)
        return Levels(jnp.ones_like(sigma), sigma, 0.25 * jnp.log(sigma), scale)
    if process == "flow":
        level = jax.random.uniform(key, (count,), jnp.float32)
    else:
        level = jax.nn.sigmoid(jax.random.normal(key, (count,), jnp.float32))
    return Levels(1 - level, level, num_steps * level, jnp.ones_like(level))


def sampler_of(process: str, steps: int, name: str = "ddim", prediction: str = "epsilon") -> Sampler:
    """Returns a sampler of a model of values in [-1, 1] that was trained with a process.

    Args:
      process: as `drawn_levels` takes it.
      steps: of the sampler.
      name: a key of `SAMPLERS`, for a process with steps; a flow's is Euler's method, that of "edm" Heun's.
      prediction: a key of `PREDICTIONS`.

    Raises:
      ConfigError: a name is unknown, or the process's model predicts something else.
    """
    if process in BETAS:
        if name not in SAMPLERS:
            raise unknown("sampler", name, SAMPLERS)
        return SAMPLERS[name](signal_powers(process), steps, prediction=prediction)
    if process not in CONTINUOUS:
        raise unknown("process", process, (*BETAS, *CONTINUOUS))
    own = "edm" if process == "edm" else "flow"
    if prediction != own:
        raise ConfigError(f"prediction: a model of the process {process!r} predicts {own!r}, got {prediction!r}")
    return edm(steps) if process == "edm" else flow_euler(steps)


def spaced(spacing: str, steps: int, total: int, offset: int = 0) -> np.ndarray:
    """Returns the timesteps of a sampler, from the last on: table 2 of Lin et al. (2023), arXiv:2305.08891.

    Args:
      spacing: "linspace" from end to end, "leading" multiples of a stride from 0, "trailing" ones from the end.
      steps: how many.
      total: T.
      offset: added to those that are "leading".

    Raises:
      ConfigError: the spacing is unknown, or there are more steps than T.
    """
    if not 1 <= steps <= total:
        raise ConfigError(f"steps: expected from 1 to the {total} that the process has, got {steps}")
    if spacing == "linspace":
        return np.linspace(0, total - 1, steps).round()[::-1].astype(np.int64)
    if spacing == "leading":
        return np.arange(steps)[::-1] * (total // steps) + offset
    if spacing == "trailing":
        return np.arange(total, 0, -total / steps).round().astype(np.int64) - 1
    raise unknown("spacing", spacing, ("linspace", "leading", "trailing"))


def _flow_of(
    method: str,
    powers: np.ndarray,
    steps: int,
    *,
    prediction: str | Prediction = "epsilon",
    clip: float | None = None,
    karras: bool = False,
    spacing: str = "linspace",
    offset: int = 0,
    begin: int = 0,
) -> Sampler:
    all_sigmas, total = np.sqrt((1 - powers) / powers), len(powers)
    times = spaced(spacing, steps, total, offset).astype(np.float32)
    if spacing == "linspace":  # here they aren't rounded
        times = np.linspace(0, total - 1, steps, dtype=np.float32)[::-1]
    sigmas = np.interp(times, np.arange(total), all_sigmas)
    if karras:
        sigmas = _karras(sigmas[0], sigmas[-1], np.linspace(0, 1, steps))
        times = _times_of(sigmas, all_sigmas)
    sigmas = sigmas.astype(np.float32)
    start = float(sigmas.max()) if spacing != "leading" else math.sqrt(float(sigmas.max()) ** 2 + 1)
    alpha = 1 / np.sqrt(sigmas**2 + 1)
    of_x, of_output = prediction_of(prediction).clean(alpha, sigmas * alpha)
    rows = _by_level(method, times, sigmas, alpha, np.broadcast_arrays(of_x * alpha, of_output))
    return Sampler(_from(rows, begin * (2 if method == "heun" else 1)), start, clip)


def _by_level(method: str, times: np.ndarray, sigmas: np.ndarray, scale: np.ndarray, clean: Any) -> Rows:
    """The rows of a method on x = data + level * noise, its levels in `sigmas` (N,) and then 0."""
    after = np.append(sigmas[1:], np.float32(0))
    given = dict(scale=scale, signal=np.ones_like(sigmas), level=sigmas)
    if method == "euler":
        return _rows(times, clean, **given, keep=after / sigmas, history=1 - after / sigmas)
    if method == "ancestral":
        up = np.sqrt(after**2 * (sigmas**2 - after**2) / sigmas**2)
        down = np.sqrt(after**2 - up**2)
        return _rows(times, clean, **given, keep=down / sigmas, history=1 - down / sigmas, noise=up)
    if method != "heun":
        raise unknown("method", method, ("euler", "ancestral", "heun"))
    first = _rows(times, clean, **given, keep=after / sigmas, history=1 - after / sigmas, remember=1.0)
    first = first._replace(history=np.pad(first.history, ((0, 0), (0, 1))))
    here, there = sigmas[:-1], sigmas[1:]  # the second call: the slope at the end, averaged with that at the beginning
    half = (there - here) / 2
    second = _rows(
        times[1:], tuple(values[1:] for values in clean),
        **{name: values[1:] for name, values in given.items()},
        keep=half / there, anchor=1 + half / here, history=np.stack([-half / there, -half / here], 1),
    )  # fmt: skip
    order = np.argsort(np.concatenate([2 * np.arange(len(sigmas)), 2 * np.arange(len(there)) + 1]))
    return Rows(*(np.concatenate(pair)[order] for pair in zip(first, second, strict=True)))


def _rows(times: np.ndarray, clean: Pair, **columns: np.ndarray) -> Rows:
    """Rows of these columns; others are 0, the scale 1; one estimate is kept if the history has one axis."""
    given = dict.fromkeys(Rows._fields, 0.0) | {"scale": 1.0} | columns
    given |= {"timestep": times, "estimate_x": clean[0], "estimate_output": clean[1]}
    history = np.asarray(given.pop("history"), np.float32).reshape(len(times), -1)
    columns = {name: np.broadcast_to(np.asarray(value, np.float32), len(times)) for name, value in given.items()}
    return Rows(**columns, history=history)


def _from(rows: Rows, begin: int) -> Rows:
    if not 0 <= begin < len(rows.timestep):
        raise ConfigError(f"begin: expected fewer than the {len(rows.timestep)} steps, got {begin}")
    return Rows(*(values[begin:] for values in rows))


def _before(powers: np.ndarray, times: np.ndarray, last: float | None) -> np.ndarray:
    """The powers at timesteps, of which those before the first have `last`, or the first one's."""
    final = powers[0] if last is None else np.float32(last)
    return np.where(times >= 0, powers[np.maximum(times, 0)], final).astype(np.float32)


def _karras(highest: float, lowest: float, ramp: np.ndarray, rho: float = 7.0) -> np.ndarray:
    return (highest ** (1 / rho) + ramp * (lowest ** (1 / rho) - highest ** (1 / rho))) ** rho


def _times_of(sigmas: np.ndarray, all_sigmas: np.ndarray) -> np.ndarray:
    """The timesteps, with fractions, at which a process has these levels."""
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(all_sigmas), np.arange(len(all_sigmas)))
