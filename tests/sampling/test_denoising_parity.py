"""Each sampler beside diffusers' scheduler of the same name: what the model is told and sees, and every step."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from deepmodels.sampling import denoising

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn:DeprecationWarning"),  # torch beside numpy 2
]
SHAPE = (2, 4, 4, 3)
BETAS = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
POWERS = denoising.signal_powers("scaled_linear")
LINEAR = denoising.signal_powers("linear")
COSINE = denoising.signal_powers("cosine")
FREE = dict(clip_sample=False)
V = dict(prediction_type="v_prediction")
X0 = dict(prediction_type="sample")

CASES = {
    "ddpm": ("DDPMScheduler", {}, 20, denoising.ddpm(LINEAR, 20)),
    "ddpm all": ("DDPMScheduler", {}, 1000, denoising.ddpm(LINEAR, 1000)),
    "ddpm large, cosine, v": (
        "DDPMScheduler",
        dict(variance_type="fixed_large", beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing") | V | FREE,
        7,
        denoising.ddpm(COSINE, 7, variance="large", prediction="v", clip=None, spacing="trailing"),
    ),
    "ddim": ("DDIMScheduler", {}, 20, denoising.ddim(LINEAR, 20)),
    "ddim of latents": (
        "DDIMScheduler",
        dict(set_alpha_to_one=False, steps_offset=1) | BETAS | FREE,
        9,
        denoising.ddim(POWERS, 9, clip=None, offset=1, last_power=None),
    ),
    "ddim eta, v": (
        "DDIMScheduler",
        V | dict(clip_sample_range=2.0),
        10,
        denoising.ddim(LINEAR, 10, prediction="v", eta=0.7, clip=2.0),
    ),
    "ddim x0": ("DDIMScheduler", X0, 10, denoising.ddim(LINEAR, 10, prediction="sample")),
    "pndm": (
        "PNDMScheduler", dict(skip_prk_steps=True, steps_offset=1) | BETAS, 12, denoising.pndm(POWERS, 12, offset=1)
    ),
    "pndm in few steps": ("PNDMScheduler", dict(skip_prk_steps=True) | BETAS, 2, denoising.pndm(POWERS, 2)),
    "pndm with runge-kutta": ("PNDMScheduler", {}, 10, denoising.pndm(LINEAR, 10, runge_kutta=True)),
    "pndm v": ("PNDMScheduler", dict(skip_prk_steps=True) | V, 6, denoising.pndm(LINEAR, 6, prediction="v")),
    "euler": ("EulerDiscreteScheduler", BETAS, 11, denoising.euler(POWERS, 11)),
    "euler leading, v": (
        "EulerDiscreteScheduler",
        dict(timestep_spacing="leading", steps_offset=1) | BETAS | V,
        11,
        denoising.euler(POWERS, 11, spacing="leading", offset=1, prediction="v"),
    ),
    "euler karras": (
        "EulerDiscreteScheduler", dict(use_karras_sigmas=True) | BETAS, 8, denoising.euler(POWERS, 8, karras=True)
    ),
    "euler ancestral": ("EulerAncestralDiscreteScheduler", BETAS, 11, denoising.euler_ancestral(POWERS, 11)),
    "heun": ("HeunDiscreteScheduler", BETAS, 9, denoising.heun(POWERS, 9)),
    "heun karras, v": (
        "HeunDiscreteScheduler",
        dict(use_karras_sigmas=True) | BETAS | V,
        6,
        denoising.heun(POWERS, 6, karras=True, prediction="v"),
    ),
    "dpm": ("DPMSolverMultistepScheduler", BETAS, 20, denoising.dpm_solver(POWERS, 20)),
    "dpm in few steps": ("DPMSolverMultistepScheduler", BETAS, 5, denoising.dpm_solver(POWERS, 5)),
    "dpm 3": (
        "DPMSolverMultistepScheduler", dict(solver_order=3) | BETAS, 16, denoising.dpm_solver(POWERS, 16, order=3)
    ),
    "dpm 3 in few steps": (
        "DPMSolverMultistepScheduler", dict(solver_order=3) | BETAS, 6, denoising.dpm_solver(POWERS, 6, order=3)
    ),
    "dpm karras": (
        "DPMSolverMultistepScheduler",
        dict(use_karras_sigmas=True) | BETAS,
        10,
        denoising.dpm_solver(POWERS, 10, karras=True),
    ),
    "dpm heun, leading, v, sigma_min": (
        "DPMSolverMultistepScheduler",
        dict(solver_type="heun", timestep_spacing="leading", steps_offset=1, final_sigmas_type="sigma_min") | BETAS | V,
        18,
        denoising.dpm_solver(
            POWERS, 18, solver="heun", spacing="leading", offset=1, prediction="v", last_level="sigma_min"
        ),
    ),
    "dpm stochastic": (
        "DPMSolverMultistepScheduler",
        dict(algorithm_type="sde-dpmsolver++", timestep_spacing="trailing", euler_at_final=True) | BETAS,
        16,
        denoising.dpm_solver(POWERS, 16, stochastic=True, spacing="trailing", euler_at_final=True),
    ),
    "lcm": ("LCMScheduler", {}, 4, denoising.lcm(POWERS, 4)),
    "lcm v": ("LCMScheduler", V | dict(clip_sample=True), 3, denoising.lcm(POWERS, 3, prediction="v", clip=1.0)),
    "consistency": ("CMStochasticIterativeScheduler", {}, 4, denoising.consistency(4)),
    "consistency in one step": ("CMStochasticIterativeScheduler", {}, 1, denoising.consistency(1)),
    "flow": ("FlowMatchEulerDiscreteScheduler", {}, 9, denoising.flow_euler(9)),
    "flow shifted": ("FlowMatchEulerDiscreteScheduler", dict(shift=3.0), 9, denoising.flow_euler(9, shift=3.0)),
    "edm": ("EDMEulerScheduler", {}, 9, denoising.edm(9, method="euler")),
}  # fmt: skip


def model_of(x, timestep):
    """Something that depends on all that a model sees."""
    return 0.6 * x + 0.3 * x[:, ::-1] + 0.4 * (timestep / 300 + 1.0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_step_is_diffusers(name, dtype, monkeypatch):
    torch = oracles.import_torch()
    library = oracles.import_diffusers()
    kind, config, steps, sampler = CASES[name]
    rng = np.random.default_rng(0)
    count = len(sampler.rows.timestep)
    start = sampler.start * rng.normal(size=SHAPE).astype(dtype)
    noises = rng.normal(size=(count, *SHAPE)).astype(dtype)

    scheduler = getattr(library, kind)(**config)
    scheduler.set_timesteps(steps)
    assert float(scheduler.init_noise_sigma if hasattr(scheduler, "init_noise_sigma") else 1.0) == pytest.approx(
        sampler.start, rel=1e-6
    )
    np.testing.assert_allclose(sampler.rows.timestep, scheduler.timesteps.numpy(), rtol=1e-6, atol=1e-4)
    module = __import__(type(scheduler).__module__, fromlist=["x"])
    x, expected = torch.from_numpy(start), []
    eta = {"eta": 0.7} if "eta" in name else {}
    for number, timestep in enumerate(scheduler.timesteps):
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", lambda *a, **k: torch.from_numpy(noises[number]))  # noqa: B023
        seen = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        output = model_of(seen.numpy().astype(dtype), timestep.numpy().astype(dtype))
        x = scheduler.step(torch.from_numpy(output), timestep, x, **eta).prev_sample
        expected.append(x.numpy())

    with jax.enable_x64(dtype is np.float64):
        run = jax.jit(lambda x, noise: denoising.denoise(model_of, x, sampler, noise=noise, trace=True))
        last, trace = run(start, noises)
    for step in range(count):
        scale = np.abs(expected[step]).max() * (1 + step / 50)
        # theirs rounds its factors to float32, and some of them to differences of two that are nearly the same
        np.testing.assert_allclose(trace[step], expected[step], rtol=0, atol=TOLERANCE * scale, err_msg=f"step {step}")
    np.testing.assert_array_equal(last, trace[-1])


TOLERANCE = 3e-6


def test_schedules_are_theirs():
    library = oracles.import_diffusers()
    for name, powers in {"linear": LINEAR, "squaredcos_cap_v2": COSINE}.items():
        np.testing.assert_array_equal(library.DDPMScheduler(beta_schedule=name).alphas_cumprod.numpy(), powers)
    np.testing.assert_array_equal(library.DDPMScheduler(**BETAS).alphas_cumprod.numpy(), POWERS)


@pytest.mark.parametrize("name", ["ddim of latents", "euler", "dpm", "heun"])
def test_in_the_middle_too(name):
    """Clean data with the noise of a later step, as image-to-image begins, and each step from there."""
    torch = oracles.import_torch()
    kind, config, steps, _ = CASES[name]
    scheduler = getattr(oracles.import_diffusers(), kind)(**config)
    scheduler.set_timesteps(steps)
    begin = denoising.skipped(steps, 0.6)
    index = begin * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(index)
    clean, noise = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    times = scheduler.timesteps[index:]
    x = scheduler.add_noise(torch.from_numpy(clean), torch.from_numpy(noise), times[:1])

    make = {"ddim of latents": denoising.ddim, "euler": denoising.euler, "dpm": denoising.dpm_solver}
    options = dict(clip=None, offset=1, last_power=None) if name.startswith("ddim") else {}
    sampler = make.get(name, denoising.heun)(POWERS, steps, begin=begin, **options)
    ours = denoising.noised(sampler, jnp.asarray(clean), jnp.asarray(noise))
    np.testing.assert_allclose(ours, x.numpy(), rtol=0, atol=1e-6 * np.abs(x.numpy()).max())
    last = jax.jit(lambda x: denoising.denoise(model_of, x, sampler))(ours)
    for timestep in times:
        output = model_of(scheduler.scale_model_input(x, timestep).numpy(), timestep.numpy().astype(np.float32))
        x = scheduler.step(torch.from_numpy(output), timestep, x).prev_sample
    np.testing.assert_allclose(last, x.numpy(), rtol=0, atol=TOLERANCE * np.abs(x.numpy()).max())
