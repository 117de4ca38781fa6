"""Milliseconds of single convolutions, forward and their two gradients, by XLA and by torch: where a ratio comes from.

    python benchmarks/convolutions.py                   # all layers below
    python benchmarks/convolutions.py alexnet_conv1

Float32 on a CPU, the shortest of four. XLA's are compiled with the options of deepmodels/tuning.py ("eigen") and
without ("default"), those of digits also as products of rows ("rows"); torch's are in the faster of its two memory
layouts. "ideal" is what the layer's operations take at 300 GFLOP/s.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from deepmodels import tuning
from deepmodels.layers.conv import convolve_rows

sys.path.insert(0, str(Path(__file__).parent.parent / "parity"))

import oracles

LAYERS = {  # batch, side, channels in and out, side of the kernel, stride, padding
    "lenet5_conv1": (256, 28, 1, 6, 5, 1, 2),
    "lenet5_conv2": (256, 14, 6, 16, 5, 1, 0),
    "alexnet_conv1": (16, 224, 3, 64, 11, 4, 2),
    "alexnet_conv2": (16, 27, 64, 192, 5, 1, 2),
    "alexnet_conv3": (16, 13, 192, 384, 3, 1, 1),
    "alexnet_conv4": (16, 13, 384, 256, 3, 1, 1),
    "alexnet_conv5": (16, 13, 256, 256, 3, 1, 1),
    "vgg11_conv1": (16, 224, 3, 64, 3, 1, 1),
    "vgg11_conv2": (8, 112, 64, 128, 3, 1, 1),
    "ddpm_32": (16, 32, 128, 128, 3, 1, 1),
    "ddpm_16": (16, 16, 256, 256, 3, 1, 1),
    "ddpm_16_joined": (16, 16, 512, 256, 3, 1, 1),
    "ddpm_8": (16, 8, 256, 256, 3, 1, 1),
    "ddpm_4": (16, 4, 256, 256, 3, 1, 1),
    "dcgan_conv1": (16, 64, 3, 64, 4, 2, 1),
    "dcgan_conv2": (16, 32, 64, 128, 4, 2, 1),
    "dcgan_conv3": (16, 16, 128, 256, 4, 2, 1),
    "dcgan_conv4": (16, 8, 256, 512, 4, 2, 1),
}


def shortest(call, rounds: int = 4) -> float:
    """Returns the milliseconds of the shortest of some calls."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def by_xla(written, options, batch, side, fed, width, size, stride, padding) -> list[float]:
    """Returns the times of the forward pass, the images' gradient and the kernel's, `written` as XLA's function is."""

    def convolve(x, kernel):
        pads, names = [(padding, padding)] * 2, ("NHWC", "HWIO", "NHWC")
        return written(x, kernel, (stride, stride), pads, dimension_numbers=names)

    x, kernel = jnp.ones((batch, side, side, fed)), jnp.ones((size, size, fed, width))
    y = convolve(x, kernel)
    times = []
    for function in (
        lambda x, kernel, y: convolve(x, kernel),
        lambda x, kernel, y: jax.vjp(lambda x: convolve(x, kernel), x)[1](y)[0],
        lambda x, kernel, y: jax.vjp(lambda kernel: convolve(x, kernel), kernel)[1](y)[0],
    ):
        compiled = jax.jit(function).lower(x, kernel, y).compile(options)
        compiled(x, kernel, y).block_until_ready()
        times.append(shortest(lambda compiled=compiled: compiled(x, kernel, y).block_until_ready()))
    return times


def by_torch(torch, layout, batch, side, fed, width, size, stride, padding) -> list[float]:
    """Returns the same of torch in a memory layout."""
    x = torch.ones(batch, fed, side, side).to(memory_format=layout)
    kernel = torch.ones(width, fed, size, size).to(memory_format=layout)
    with torch.inference_mode():
        y = torch.nn.functional.conv2d(x, kernel, None, stride, padding)
        shared = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
        times = [shortest(lambda: torch.nn.functional.conv2d(x, kernel, None, stride, padding))]
        for wanted in ([True, False, False], [False, True, False]):
            times.append(shortest(lambda w=wanted: torch.ops.aten.convolution_backward(y, x, kernel, None, *shared, w)))
    return times


def main() -> None:
    """Prints a line for each layer of the command line, or for all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="LAYER", help=f"of {', '.join(LAYERS)}")
    options = parser.parse_args()
    if unknown := set(options.names) - set(LAYERS):
        parser.error(f"unknown layers {sorted(unknown)}; there are {', '.join(LAYERS)}")
    torch = oracles.import_torch()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    for name in options.names or LAYERS:
        layer = LAYERS[name]
        batch, side, fed, width, size, stride, padding = layer
        general, tuned = jax.lax.conv_general_dilated, tuning.PROFILES["cpu"].options
        rows = {"eigen": by_xla(general, tuned, *layer), "default": by_xla(general, None, *layer)}
        if side * fed < 100:
            rows["rows"] = by_xla(convolve_rows, tuned, *layer)
        layouts = (torch.contiguous_format, torch.channels_last)
        rows["torch"] = min((by_torch(torch, layout, *layer) for layout in layouts), key=sum)
        ideal = 2 * batch * ((side + 2 * padding - size) // stride + 1) ** 2 * fed * width * size**2 / 300e6
        told = "; ".join(f"{by} {' '.join(f'{ms:.1f}' for ms in times)}" for by, times in rows.items())
        print(f"{name}: forward, by images, by kernel: {told}; ideal {ideal:.1f} ms", flush=True)


if __name__ == "__main__":
    main()
