"""Folders whose weights are quantised: gpt-oss's MXFP4 and DeepSeek-V3's float8."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from deepmodels.errors import WeightsError
from deepmodels.loading import load_folder, save_folder
from deepmodels.models.deepseek import DeepSeek, Routes
from deepmodels.models.llama import Llama, Mixture, Window
from deepmodels.weights import files
from deepmodels.weights.quantised import Float8, Mxfp4


def variables_of(model):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), dict(shapes))


def rewrite(place, method, change):
    """Replaces the arrays of a folder by what `change` makes of each, and says so in its config."""
    arrays = {}
    for name, array in files.read(place).items():
        arrays |= change(name, array)
    files.write(place / "model.safetensors", arrays)
    config = json.loads((place / "config.json").read_text()) | {"quantization_config": method}
    (place / "config.json").write_text(json.dumps(config))


def test_mxfp4(tmp_path):
    model = Llama(
        32, 32, 1, num_heads=2, mlp_size=32, sinks=True, gate_function="clamped_swiglu",
        mixture=Mixture(2, 1, use_bias=True), window=Window(4, 2), qkv_bias=True, out_bias=True,
    )  # fmt: skip
    save_folder(tmp_path, model, variables_of(model))
    rng = np.random.default_rng(1)
    expected = {}

    def change(name, array):
        if not name.endswith(("gate_up_proj", "down_proj")):
            return {name: array}
        experts, size, out = array.shape
        blocks = rng.integers(0, 256, (experts, out, size // 32, 16)).astype(np.uint8)
        scales = rng.integers(120, 130, (experts, out, size // 32)).astype(np.uint8)
        table = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
        whole = np.empty(array.shape, np.float32)
        for e, o, i in np.ndindex(experts, out, size):  # the definition, number by number
            byte = int(blocks[e, o, i // 32, i % 32 // 2])
            four = byte >> 4 if i % 2 else byte & 15
            whole[e, i, o] = (-1) ** (four >> 3) * table[four & 7] * 2.0 ** (int(scales[e, o, i // 32]) - 127)
        expected[name.split(".")[-1]] = whole
        return {f"{name}_blocks": blocks, f"{name}_scales": scales}

    rewrite(tmp_path, {"quant_method": "mxfp4"}, change)
    _, got = load_folder(tmp_path)
    experts = got["params"]["layers"]["mlp"]["experts"]
    np.testing.assert_array_equal(experts["down"]["kernel"][0], expected["down_proj"])
    np.testing.assert_array_equal(experts["gate"]["kernel"][0], expected["gate_up_proj"][..., ::2])
    np.testing.assert_array_equal(experts["up"]["kernel"][0], expected["gate_up_proj"][..., 1::2])
    rewrite(
        tmp_path, {"quant_method": "mxfp4"}, lambda name, array: {} if "down_proj_scales" in name else {name: array}
    )
    with pytest.raises(WeightsError, match=r"down_proj_blocks: there is no .*down_proj_scales"):
        load_folder(tmp_path)


@pytest.mark.parity
def test_mxfp4_is_what_transformers_makes_of_it():
    torch = oracles.import_torch()
    oracles.import_transformers()
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (2, 6, 3, 16)).astype(np.uint8)
    scales = rng.integers(110, 140, (2, 6, 3)).astype(np.uint8)
    theirs = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32)
    np.testing.assert_array_equal(np.asarray(Mxfp4(blocks, scales)), theirs.numpy())


def test_float8_in_blocks(tmp_path):
    model = DeepSeek(
        32, 136, 1, num_heads=2, query_rank=None, latent_size=8, head_size=8, rotary_size=4, value_size=8,
        num_dense_layers=0, expert_size=130, routes=Routes(2, 1),
    )  # fmt: skip
    save_folder(tmp_path, model, variables_of(model))
    rng, expected = np.random.default_rng(1), {}

    def change(name, array):
        if "_proj" not in name:
            return {name: array}
        values = array.astype(jnp.float8_e4m3fn)
        scales = rng.uniform(0.5, 2, [-(-size // 128) for size in array.shape]).astype(np.float32)
        row, column = np.arange(array.shape[0]) // 128, np.arange(array.shape[1]) // 128
        expected[name] = values.astype(np.float32) * scales[row[:, None], column[None]]
        return {name: values, f"{name}_scale_inv": scales}

    method = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    rewrite(tmp_path, method, change)
    _, got = load_folder(tmp_path)
    up = expected["model.layers.0.mlp.experts.1.up_proj.weight"]
    assert up.shape == (130, 136)
    np.testing.assert_array_equal(got["params"]["layers"]["mlp"]["experts"]["up"]["kernel"][0, 1], up.T)
    np.testing.assert_array_equal(
        got["params"]["layers"]["attention"]["out"]["kernel"][0], expected["model.layers.0.self_attn.o_proj.weight"].T
    )
    assert Float8(np.zeros((3, 3), jnp.float8_e4m3fn), np.ones((1, 1), np.float32)).shape == (3, 3)
    rewrite(tmp_path, method | {"weight_block_size": [64, 64]}, lambda name, array: {name: array})
    with pytest.raises(WeightsError, match="only mxfp4, and fp8 in blocks of 128"):
        load_folder(tmp_path)
    rewrite(tmp_path, method, lambda name, array: {name: array[:, :0] if "o_proj.weight_scale" in name else array})
    with pytest.raises(WeightsError, match="not fp8"):
        load_folder(tmp_path)
