"""Samplers of data whose best model is known: normal data, and one of two points. diffusers' are the parity tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.errors import ConfigError
from deepmodels.sampling import denoising
from deepmodels.sampling.denoising import PREDICTIONS, denoise, noised, signal_powers

POWERS = signal_powers("linear")
SPREAD, MEAN = 0.5, 0.7  # of the data
SAMPLERS = {
    "ddpm": denoising.ddpm(POWERS, 200, clip=None),
    "ddim": denoising.ddim(POWERS, 100, clip=None),
    "pndm": denoising.pndm(POWERS, 50),
    "pndm v": denoising.pndm(POWERS, 50, prediction="v", runge_kutta=True),
    "euler": denoising.euler(POWERS, 100),
    "ancestral x0": denoising.euler_ancestral(POWERS, 200, prediction="sample"),
    "heun v": denoising.heun(POWERS, 30, prediction="v", karras=True),
    "dpm": denoising.dpm_solver(POWERS, 30, order=3),
    "flow": denoising.flow_euler(100, shift=2.0),
    "edm": denoising.edm(40),
}


def best(sampler, prediction):
    """What the best model of these normal data says: E[target | x], by the level that a timestep stands for."""
    rows = sampler.rows
    order = np.argsort(rows.timestep)
    kind = PREDICTIONS[prediction]

    def forward(x, timestep):
        columns = (rows.timestep, rows.signal, rows.level, rows.scale)
        at = [column[order].astype(timestep.dtype) for column in columns]
        signal, level, scale = (jnp.interp(timestep, at[0], values) for values in at[1:])
        x = x / scale
        total = signal**2 * SPREAD**2 + level**2
        off = x - signal * MEAN
        clean, noise = MEAN + signal * SPREAD**2 / total * off, level / total * off
        if prediction in ("epsilon", "sample", "v"):  # of a process that keeps the variance
            root = jnp.sqrt(signal**2 + level**2)
            signal, level = signal / root, level / root
        of_clean, of_noise = kind.target(signal, level)
        return of_clean * clean + of_noise * noise

    return forward


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_best_model_of_normal_data_gives_normal_data(name):
    sampler = SAMPLERS[name]
    named = {"flow": "flow", "edm": "edm"}.get(name, {"v": "v", "x0": "sample"}.get(name.split()[-1], "epsilon"))
    noise = sampler.start * jax.random.normal(jax.random.key(0), (20_000,))
    x = jax.jit(lambda x: denoise(best(sampler, named), x, sampler, key=jax.random.key(1)))(noise)
    assert (float(x.mean()), float(x.std())) == (pytest.approx(MEAN, abs=0.02), pytest.approx(SPREAD, abs=0.02))


@pytest.mark.parametrize("name", PREDICTIONS)
def test_a_prediction_is_undone(name, float64):
    kind, (clean, noise) = PREDICTIONS[name], np.random.default_rng(0).normal(size=(2, 50))
    level = np.linspace(0.05, 0.95, 50)
    signal = {"flow": 1 - level, "edm": np.ones(50)}.get(name, np.sqrt(1 - level**2))
    x = signal * clean + level * noise
    a, b = kind.target(signal, level)
    for factors, expected in ((kind.clean, clean), (kind.noise, noise)):
        of_x, of_output = factors(signal, level)
        np.testing.assert_allclose(of_x * x + of_output * (a * clean + b * noise), expected, atol=1e-12)


def test_heun_is_of_the_second_order_and_euler_of_the_first():
    """Half the step, a quarter of the error, or a half; on the way to a level above 0, where all are of the first."""

    def error(method, steps):
        sampler = denoising.edm(steps, method=method, sigma_min=0.1, sigma_max=1.0)
        last = len(sampler.rows.timestep) - 1
        rows = jax.tree.map(lambda column: column[:last], sampler.rows)
        x = np.float64([1.3])
        made = denoise(best(sampler, "edm"), x, sampler._replace(rows=rows))
        exact = MEAN + (x - MEAN) * np.sqrt((0.1**2 + SPREAD**2) / (1 + SPREAD**2))
        return np.abs(made - exact).max()

    with jax.enable_x64(True):
        assert error("euler", 21) / error("euler", 41) == pytest.approx(2, abs=0.3)
        assert error("heun", 21) / error("heun", 41) == pytest.approx(4, abs=0.8)


def test_guidance_without_a_classifier():
    def forward(x, timestep, condition):
        return condition["shift"][:, None] * x + timestep

    x, timestep = jnp.ones((3, 2)), jnp.float32(2)
    conditions = [{"shift": jnp.full(3, value)} for value in (5.0, 1.0)]
    for scale, expected in ((1, 7.0), (0, 3.0), (2.5, 3 + 2.5 * 4)):
        guided = denoising.classifier_free(forward, *conditions, scale)
        np.testing.assert_allclose(guided(x, timestep), np.full((3, 2), expected))


def test_a_classifier_guides_to_its_class():
    """The score of what a classifier is sure of, of normal data in two classes, is that of the one."""
    sampler = denoising.ddim(POWERS, 100, clip=None)
    free = best(sampler, "epsilon")

    def log_probability(x, timestep):  # of x0 = 1.7, by a normal posterior of x0
        power = jnp.asarray(POWERS)[timestep.astype(jnp.int32)]
        total = power * SPREAD**2 + 1 - power
        mean = MEAN + jnp.sqrt(power) * SPREAD**2 / total * (x - jnp.sqrt(power) * MEAN)
        return -jnp.square(1.7 - mean) / 2 / (SPREAD**2 * (1 - power) / total + 0.25)

    noise = jax.random.normal(jax.random.key(0), (2000,))
    guided = denoising.classifier_guided(free, log_probability, POWERS)
    x = jax.jit(lambda x: denoise(guided, x, sampler))(noise)
    precision = 1 / SPREAD**2 + 1 / 0.25
    mean = (MEAN / SPREAD**2 + 1.7 / 0.25) / precision
    assert float(x.mean()) == pytest.approx(mean, abs=0.03)
    assert float(x.std()) == pytest.approx(precision**-0.5, abs=0.03)


def test_what_is_held_is_held_and_each_step_is_told_and_kept():
    sampler = denoising.euler_ancestral(POWERS, 6)
    known = jnp.arange(4.0)
    noise = jax.random.normal(jax.random.key(0), (4,))
    held, done = jnp.array([True, True, False, False]), []

    def after(x, signal, level):
        return jnp.where(held, signal * known + level * noise, x)

    run = jax.jit(
        lambda x: denoise(
            lambda x, timestep: 0.5 * x, x, sampler, key=jax.random.key(1), after=after, on_step=done.append, trace=True
        )
    )
    x, xs = run(noised(sampler, known, noise))
    jax.effects_barrier()
    np.testing.assert_array_equal(x[:2], known[:2])
    np.testing.assert_allclose(xs[2, :2], known[:2] + sampler.rows.level[3] * noise[:2], rtol=1e-6)
    np.testing.assert_array_equal(xs[-1], x)
    assert sorted(map(int, done)) == list(range(6))


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="key: this sampler adds noise"):
        denoise(lambda x, timestep: x, jnp.zeros(3), denoising.ddpm(POWERS, 5))
    with pytest.raises(ConfigError, match="from 1 to the 1000 that the process has, got 1001"):
        denoising.ddim(POWERS, 1001)
    with pytest.raises(ConfigError, match="unknown noise schedule 'cosin': did you mean 'cosine'"):
        signal_powers("cosin")
    with pytest.raises(ConfigError, match="unknown spacing 'lead': did you mean 'leading'"):
        denoising.euler(POWERS, 5, spacing="lead")
    with pytest.raises(ConfigError, match="unknown prediction 'eps': did you mean 'epsilon'"):
        denoising.dpm_solver(POWERS, 5, prediction="eps")
    with pytest.raises(ConfigError, match="order: expected 1, 2 or"):
        denoising.dpm_solver(POWERS, 5, order=3, stochastic=True)
    with pytest.raises(ConfigError, match="strength: expected at most 1, and of 10 steps at least 0.1, got 0.05"):
        denoising.skipped(10, 0.05)
    with pytest.raises(ConfigError, match="begin: expected fewer than the 5 steps, got 5"):
        denoising.ddim(POWERS, 5, begin=5)
