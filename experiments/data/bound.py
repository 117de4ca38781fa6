"""Says what each layer of a deep belief network does for the bound of log p(v), on Fashion-MNIST's test pictures.

python experiments/data/bound.py runs/dbn/layer1/checkpoints/5500

Pixels are drawn once to be 0 or 1. Of the first layer alone it is log p(v), of more the variational bound; log Z is
estimated by annealed importance sampling, with three of its standard deviations. An estimate of log Z that is too low
makes the bound look better than it is, and chains that don't mix say nothing of that: more temperatures tell.
"""

import argparse
import math

import jax
import jax.numpy as jnp

from deepmodels import data
from deepmodels.models.boltzmann import (
    annealed_log_partition,
    draw_pixels,
    hidden_input,
    log_likelihood_bound,
    machines_of,
)
from deepmodels.weights import files

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("source", help="a checkpoint, or any file of the network's weights")
parser.add_argument("--layers", type=int, default=2, help="how many of the layers have been trained")
parser.add_argument("--chains", type=int, default=100)
parser.add_argument("--temperatures", type=int, default=10_000)
parser.add_argument("--data", default="fashion_mnist", help="name of the data set")
options = parser.parse_args()

arrays = files.read(options.source)
params = {name.removeprefix("params/"): array for name, array in arrays.items() if name.startswith("params/")}
machines = machines_of(params)[: options.layers]
source = data.create(options.data, split="test")
images = jnp.asarray(data.gather(source, jnp.arange(len(source)))["image"], jnp.float32) / 255
pixels = draw_pixels(jax.random.key(0), images.reshape(len(images), -1))

states = pixels
for number, machine in enumerate(machines):
    mean = states.mean(0).clip(0.01, 0.99)
    log_partition, deviation = jax.jit(annealed_log_partition, static_argnames=("chains", "temperatures"))(
        machine,
        jax.random.key(1),
        chains=options.chains,
        temperatures=options.temperatures,
        base_bias=jnp.log(mean / (1 - mean)),
    )
    bound = log_likelihood_bound(machines[: number + 1], pixels, jax.random.key(2), log_partition)
    error = 3 * math.log1p(float(deviation))
    print(
        f"{number + 1} of {len(machines)} layers: {float(bound.mean()):.2f} nats for a picture, log Z "
        f"{float(log_partition):.2f} +- {error:.2f}",
        flush=True,
    )
    states = draw_pixels(jax.random.fold_in(jax.random.key(3), number), jax.nn.sigmoid(hidden_input(machine, states)))
