"""Seconds of DCGAN's transposed convolutions, forward and backward, on a CPU: as matrix products, and as XLA has them.

    python benchmarks/transposed_convolution.py [--batch 16] [--rounds 5]

Each row is a layer of the generator for 64 x 64 pixels; both forms take turns, and the median of the rounds counts.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from deepmodels.layers.conv import ConvTranspose

LAYERS = ((4, 512, 256), (8, 256, 128), (16, 128, 64), (32, 64, 3))  # side, channels in, channels out


def step(module: ConvTranspose, variables, x):
    """Compiles the layer with its gradients by kernel and images."""

    def loss(variables, x):
        return jnp.square(module.apply(variables, x)).mean()

    return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(variables, x).compile()


def seconds(compiled, variables, x) -> float:
    """Returns the time of one call."""
    start = time.perf_counter()
    jax.block_until_ready(compiled(variables, x))
    return time.perf_counter() - start


def main() -> None:
    """Prints a row for each layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    chosen = jax.lax.platform_dependent
    for side, channels, features in LAYERS:
        module = ConvTranspose(features, 4, 2, padding=1, use_bias=False)
        x = jax.random.normal(jax.random.key(0), (options.batch, side, side, channels))
        variables = module.init(jax.random.key(1), x)
        forms = {"products": step(module, variables, x)}
        jax.lax.platform_dependent = lambda *arguments, cpu, default: default(*arguments)
        forms["xla"] = step(module, variables, x)
        jax.lax.platform_dependent = chosen
        times = {name: [] for name in forms}
        for _ in range(options.rounds + 1):
            for name, compiled in forms.items():
                times[name].append(seconds(compiled, variables, x))
        products, xla = (statistics.median(times[name][1:]) for name in ("products", "xla"))
        ratio = f"products {products * 1e3:8.1f} ms, XLA's {xla * 1e3:8.1f} ms, ratio {xla / products:.2f}"
        print(f"{side:3} {channels:4} -> {features:4}: {ratio}", flush=True)


if __name__ == "__main__":
    main()
