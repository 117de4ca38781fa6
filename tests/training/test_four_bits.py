"""QLoRA: packed kernels are the nearest codes, models compute with them, and a run trains beside them."""

import adapters
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepmodels
from deepmodels import models, training, trees
from deepmodels.errors import ConfigError
from deepmodels.training import four_bits, lora
from deepmodels.training.step import bind

pytest.importorskip("qwix")
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 32, (2, 7)), jnp.int32)
SIZES = dict(hidden_size=64, num_heads=2, vocab_size=32)
PATTERN = ".*attention/.*|.*dense1"
# the paper's appendix E
LOWER = -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0
UPPER = 0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0
NF4 = np.array(LOWER + UPPER, np.float32)


@pytest.fixture(scope="module")
def gpt():
    """A decoder of layers of 64, its parameters with adapters that do something, and these packed."""
    model = models.create("gpt_tiny", **SIZES)
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]
    lively = lora.add(params, jax.random.key(1), rank=2, alpha=6, pattern=".*attention/(query|value)")
    lively = trees.map_named(
        lambda name, leaf: jax.random.normal(jax.random.key(2), leaf.shape) if name.endswith("lora_b") else leaf, lively
    )
    return model, params, lively, *four_bits.pack(lively, PATTERN)


def test_codes_are_the_nearest(gpt):
    _, params, _, rest, packed = gpt
    kernel = np.asarray(params["layers"]["dense1"]["kernel"])
    codes, scale = (np.asarray(packed["layers"]["dense1"][leaf]) for leaf in ("codes", "scale"))
    layers, inputs, columns = kernel.shape
    assert (codes.dtype, codes.shape, scale.shape) == (np.uint8, (layers, inputs // 2, columns), (layers, 1, columns))
    blocks = kernel.reshape(layers, inputs // four_bits.BLOCK, four_bits.BLOCK, columns)
    np.testing.assert_array_equal(scale, np.abs(blocks).max(axis=2))
    nearest = np.abs(blocks[..., None] / scale[:, :, None, :, None] - NF4).argmin(-1)
    np.testing.assert_array_equal(np.stack([codes & 15, codes >> 4], 2).reshape(blocks.shape), nearest)
    unpacked = four_bits.unpack(rest, packed)["layers"]["dense1"]["kernel"]
    expected = (NF4[nearest] * scale[:, :, None]).reshape(kernel.shape)
    np.testing.assert_allclose(unpacked, expected, rtol=1e-6, atol=1e-7)
    assert "kernel" not in rest["layers"]["dense1"]
    assert "bias" in rest["layers"]["dense1"]
    assert "lora_a" in rest["layers"]["attention"]["query"]


def test_a_model_computes_with_packed_kernels(gpt):
    model, _, lively, rest, packed = gpt

    def outputs(params, packed):
        def loss(params):
            forward = bind(model, params, {four_bits.COLLECTION: packed} if packed else {}, train=False)
            logits, _ = forward(TOKENS)
            return (logits**2).mean(), logits

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    (_, logits), gradient = outputs(rest, packed)
    (_, expected), whole = outputs(four_bits.unpack(rest, packed), None)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(logits - outputs(lively, None)[0][1]).max() > 1e-3, "codes aren't the kernels"
    assert jax.tree.structure(gradient) == jax.tree.structure(rest)
    whole = trees.flatten(whole)
    for name, leaf in trees.flatten(gradient).items():
        np.testing.assert_allclose(leaf, whole[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_what_cant_be_packed_is_refused(gpt):
    _, params, *_ = gpt
    for pattern, message in {
        "attention/.*": "matches no layer with a kernel",
        "(": "isn't a regular expression",
    }.items():
        with pytest.raises(ConfigError, match=f"lora.quantize: .*{message}"):
            four_bits.pack(params, pattern)
    with pytest.raises(ConfigError, match="dense1 has a kernel of the shape .*multiple of 64"):
        four_bits.pack({"dense1": {"kernel": jnp.zeros((96, 3))}}, ".*")


def test_a_run_trains_beside_packed_kernels(gpt, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])
    _, params, *_ = gpt
    config = adapters.config(tmp_path, {"name": "gpt_tiny", **SIZES}, params, {"rank": 2, "quantize": PATTERN})
    result = deepmodels.train(config, tmp_path / "run")
    _, expected = four_bits.pack(params, PATTERN)
    for name, leaf in trees.flatten(expected).items():
        np.testing.assert_array_equal(trees.flatten(result.state.variables[four_bits.COLLECTION])[name], leaf, name)
    for name, leaf in trees.flatten(result.state.params).items():
        if name.endswith("lora_b"):
            assert np.abs(leaf).min(axis=(1, 2)).min() > 0, "both layers moved"
    model, variables, _ = training.load_run(tmp_path / "run")
    assert jax.tree.map(jnp.shape, variables["params"]) == jax.tree.map(jnp.shape, params)
    assert jax.jit(model.apply)(variables, TOKENS).shape == (2, 7, 32)
    said = capsys.readouterr().out
    assert "more of kernels in 4 bits" in said
    assert "new at random: " in said
    assert "adapter: " in said
    assert deepmodels.evaluate(tmp_path / "run") == result.metrics
