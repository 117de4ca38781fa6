"""Our side of a benchmark of sampling: DDIM by `deepmodels.sampling.denoise`, one program on the device."""

import jax
import numpy as np
import turns

from deepmodels import models
from deepmodels.sampling import denoising


def start(arguments: list[str]):
    """Returns (step, facts) for the arguments [a model's name, a batch, a number of steps]."""
    name, batch, steps = arguments[0], int(arguments[1]), int(arguments[2])
    model = models.create(name)
    shape = (batch, model.image_size, model.image_size, model.in_channels)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros(shape, np.float32), np.zeros(batch, np.float32))
    noise = jax.random.normal(jax.random.key(1), shape)
    sampler = denoising.ddim(denoising.signal_powers(), steps)

    @jax.jit
    def run(variables, noise):
        return denoising.denoise(lambda x, timestep: model.apply(variables, x, timestep), noise, sampler)

    def step() -> None:
        run(variables, noise).block_until_ready()

    return step, {"version": f"jax {jax.__version__}"}


if __name__ == "__main__":
    turns.serve(start)
