"""A consistency model of terrain with its real weights, from the package adaptive-terrain-diffusion 0.4.2 (MIT)."""

import os
from pathlib import Path

import jax
import numpy as np
import onnx_weights
import pytest

from deepmodels import trees
from deepmodels.models.diffusion import DDPM
from deepmodels.sampling import denoising
from deepmodels.weights.convert import to_ours
from deepmodels.weights.diffusion import guided_diffusion

GOLDEN = Path(__file__).parent.parent / "golden" / "terrain_unet.npz"
CHANNELS, ATTENDS = (32, 32, 64, 96, 128), (False, False, True, True, True)
MODEL = DDPM(
    channels=CHANNELS, attention=tuple(map(int, ATTENDS)), num_heads=(1, 1, 2, 3, 4), num_blocks=4, in_channels=1,
    out_channels=1, vector_size=1, scale_shift=True, resample="block", image_size=128,
)  # fmt: skip


def normalisations(levels=5, num_blocks=4):
    """The names of the normalisations in the order in which they compute; the file has lost them."""
    for number in range(1, levels * (num_blocks + 1)):
        yield from (f"input_blocks.{number}.0.in_layers.0", f"input_blocks.{number}.0.out_layers.0")
        level, at = divmod(number - 1, num_blocks + 1)
        if ATTENDS[level] and at < num_blocks:
            yield f"input_blocks.{number}.1.norm"
    yield from ("middle_block.0.in_layers.0", "middle_block.0.out_layers.0", "middle_block.1.norm")
    yield from ("middle_block.2.in_layers.0", "middle_block.2.out_layers.0")
    for number in range(levels * (num_blocks + 1)):
        level, at = divmod(number, num_blocks + 1)
        attends = ATTENDS[::-1][level]
        yield from (f"output_blocks.{number}.0.in_layers.0", f"output_blocks.{number}.0.out_layers.0")
        if attends:
            yield f"output_blocks.{number}.1.norm"
        if at == num_blocks and level < levels - 1:
            name = f"output_blocks.{number}.{1 + attends}"
            yield from (f"{name}.in_layers.0", f"{name}.out_layers.0")
    yield "out.0"


def weights():
    folder = os.environ.get("DEEPMODELS_TEST_DATA")
    found = sorted(Path(folder).rglob("terrain_consistency_unet_difficulty100.onnx")) if folder else []
    if not found:
        pytest.skip("DEEPMODELS_TEST_DATA names no folder with terrain_consistency_unet_difficulty100.onnx in it")
    arrays = onnx_weights.read(found[0])
    named = {name.removeprefix("network."): array for name, array in arrays.items() if name.startswith("network.")}
    scales = [array.reshape(-1) for name, array in arrays.items() if array.shape[1:] == (1, 1) and array.ndim == 3]
    names = [f"{name}.{leaf}" for name in normalisations() for leaf in ("weight", "bias")]
    return named | dict(zip(names, scales, strict=True))


@pytest.mark.parity
def test_terrain_in_one_step():
    golden = np.load(GOLDEN)["denoised"]
    noise = 80 * np.sin(0.01 * np.arange(128 * 128)).reshape(1, 128, 128, 1).astype(np.float32)
    difficulty = np.full((1, 1), 50, np.float32)
    abstract = jax.eval_shape(MODEL.init, jax.random.key(0), noise, np.zeros(1), None, difficulty)
    assert trees.count(abstract) == 10_456_545
    variables = to_ours(weights(), guided_diffusion(5, 4, ATTENDS, window=2), abstract)

    @jax.jit
    def made(variables, noise):
        forward = lambda x, timestep: MODEL.apply(variables, x, timestep, None, difficulty)  # noqa: E731
        return denoising.denoise(forward, noise, denoising.consistency(1))

    np.testing.assert_allclose(made(variables, noise)[0, :, :, 0], golden, rtol=0, atol=1e-4)
