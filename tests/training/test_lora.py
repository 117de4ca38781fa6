"""LoRA: nothing changes at first, adapters alone train, merged kernels do the same, and peft's files are read back."""

import json

import adapters
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deepmodels
from deepmodels import config as configs
from deepmodels import loading, models, training, trees
from deepmodels.errors import ConfigError, WeightsError
from deepmodels.training import experiment, lora
from deepmodels.training.step import bind
from deepmodels.weights import files

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 32, (2, 7)), jnp.int32)
PATTERN = ".*attention/(query|value)|.*dense1"


@pytest.fixture(scope="module")
def gpt():
    """A gpt_tiny, its parameters, and these with adapters that do something."""
    model = models.create("gpt_tiny")
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]
    new = lora.add(params, jax.random.key(1), rank=2, alpha=6, pattern=PATTERN)
    lively = trees.map_named(
        lambda name, leaf: jax.random.normal(jax.random.key(2), leaf.shape) if name.endswith("lora_b") else leaf, new
    )
    return model, params, new, lively


def logits(model, params):
    return jax.jit(lambda params: bind(model, params, {}, train=False)(TOKENS)[0])(params)


def test_new_adapters_change_nothing(gpt):
    model, params, new, _ = gpt
    leaves = trees.flatten(new)
    assert leaves.keys() - trees.flatten(params).keys() == {
        f"layers/{module}/{leaf}" for module in ("attention/query", "attention/value", "dense1") for leaf in lora.LEAVES
    }
    assert leaves["layers/dense1/lora_a"].shape == (2, 16, 2)
    assert leaves["layers/dense1/lora_b"].shape == (2, 2, 32)
    assert np.asarray(leaves["layers/dense1/lora_scale"]).tolist() == [3.0, 3.0]
    assert not np.array_equal(leaves["layers/dense1/lora_a"][0], leaves["layers/dense1/lora_a"][1])
    np.testing.assert_array_equal(logits(model, new), logits(model, params))
    assert jax.tree.structure(lora.without(new)) == jax.tree.structure(params)


def test_merged_kernels_do_what_adapters_do(gpt):
    model, params, _, lively = gpt
    adapted = logits(model, lively)
    assert np.abs(adapted - logits(model, params)).max() > 0.05
    merged = lora.merge(lively)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, params)
    np.testing.assert_allclose(logits(model, merged), adapted, rtol=1e-4, atol=2e-6)
    first = trees.flatten(lively)
    kernel = first["layers/dense1/kernel"][1] + 3 * first["layers/dense1/lora_a"][1] @ first["layers/dense1/lora_b"][1]
    np.testing.assert_allclose(merged["layers"]["dense1"]["kernel"][1], kernel, rtol=1e-5)


def test_what_isnt_a_dense_layer_is_refused(gpt):
    _, params, _, _ = gpt
    for pattern, message in {
        "attention/.*": "matches no layer with a kernel",
        "(": "isn't a regular expression",
    }.items():
        with pytest.raises(ConfigError, match=f"lora.pattern: .*{message}"):
            lora.add(params, jax.random.key(0), rank=2, pattern=pattern)
    with pytest.raises(ConfigError, match="lora.rank: expected at least 1"):
        lora.add(params, jax.random.key(0), rank=0, pattern=".*")
    net = models.create("lenet_tiny", num_classes=10)
    images = jnp.zeros((1, 28, 28, 1))
    convolutions = jax.eval_shape(net.init, jax.random.key(0), images)["params"]
    with pytest.raises(ConfigError, match="conv1 isn't a dense layer, its kernel has the shape"):
        jax.eval_shape(lambda p: lora.add(p, jax.random.key(0), rank=2, pattern=".*"), convolutions)
    recurrent = models.create("lstm_ptb_tiny")

    def call():
        params = recurrent.init(jax.random.key(0), TOKENS)["params"]
        params = lora.add(params, jax.random.key(0), rank=2, pattern="head|stack/layer0")
        return bind(recurrent, params, {}, train=False)(TOKENS)[0]

    with pytest.raises(ConfigError, match="stack/layer0 isn't a dense layer that the model calls"):
        jax.eval_shape(call)


def test_less_than_a_hundredth_of_gpt2_trains():
    values = configs.complete({
        "steps": 1, "model": {"name": "gpt2"}, "objective": {"name": "language_modelling"},
        "data": {"name": "state_of_the_union", "batch_size": 8, "max_length": 16},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3}, "lora": {},
    })  # fmt: skip
    x = experiment.make(values)
    learned = sum(leaf.size for name, leaf in trees.flatten(x.abstract.params).items() if name[-6:-1] == "lora_")
    assert learned == 2 * 12 * 2 * 8 * 768
    averages = [name for name in trees.flatten(x.abstract.opt_state) if "/mu/" in name]
    assert len(averages) == 4
    assert all(name.endswith(("lora_a", "lora_b")) for name in averages)
    assert learned / trees.count(lora.without(x.abstract.params)) < 0.01


@pytest.fixture
def base(tmp_path, gpt):
    _, params, _, _ = gpt
    return adapters.config(tmp_path, {"name": "gpt_tiny"}, params, {"rank": 2, "pattern": PATTERN})


def test_a_run_trains_adapters_and_leaves_the_rest_bit_by_bit(base, gpt, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])
    result = deepmodels.train(base, tmp_path / "run")
    _, params, _, _ = gpt
    trained, before = trees.flatten(result.state.params), trees.flatten(params)
    for name, leaf in before.items():
        np.testing.assert_array_equal(trained[name], leaf, err_msg=name)
    for name in trained.keys() - before.keys():
        if name.endswith("lora_b"):
            assert np.abs(trained[name]).min(axis=(1, 2)).min() > 0, "both layers moved"
    model, variables, tokenizer = training.load_run(tmp_path / "run")
    assert (model, tokenizer.decode(tokenizer.encode("people"))) == (models.create("gpt_tiny"), "people")
    merged = trees.flatten(lora.merge(result.state.params))
    for name, leaf in trees.flatten(variables["params"]).items():
        np.testing.assert_array_equal(leaf, merged[name], err_msg=name)
    # in files queries, keys and values are one layer, and have one adapter, of a larger rank
    adapted = loading.load_adapter(tmp_path / "run" / "adapter", model, params)
    for name, leaf in trees.flatten(lora.merge(adapted)).items():
        np.testing.assert_allclose(leaf, merged[name], rtol=1e-5, atol=1e-6, err_msg=name)
    said = capsys.readouterr().out
    assert "adapter: " in said
    assert "Trains" in said
    assert "layers" in said
    assert deepmodels.evaluate(tmp_path / "run") == result.metrics, "adapters are in the checkpoint"


def test_what_freezes_is_said_once(base):
    with pytest.raises(ConfigError, match="what trains besides is lora.train"):
        configs.complete(base | {"optimizer": base["optimizer"] | {"freeze": "layers/.*"}})
    with pytest.raises(ConfigError, match="config.lora has no key 'ranks': did you mean 'rank'"):
        configs.complete(base | {"lora": {"ranks": 2}})
    pattern = lora.frozen("head/.*")
    params = {"head": {"kernel": 0}, "x": {"lora_a": 0, "lora_scale": 0, "kernel": 0}}
    frozen = trees.flatten(trees.mask(params, pattern))
    assert frozen == {"head/kernel": False, "x/kernel": True, "x/lora_a": False, "x/lora_scale": True}


@pytest.fixture(scope="module")
def llama():
    model = models.create("llama_tiny")
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)["params"]
    params = lora.add(params, jax.random.key(1), rank=2, alpha=6, pattern=".*attention/(query|value)|.*mlp/down")
    return model, trees.map_named(lambda name, leaf: leaf + 0.1 if name.endswith("lora_b") else leaf, params)


def test_adapters_in_the_form_of_peft(llama, tmp_path):
    model, params = llama
    loading.save_adapter(tmp_path, model, params)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (said["r"], said["lora_alpha"], said["target_modules"]) == (2, 6.0, ["down_proj", "q_proj", "v_proj"])
    arrays = files.read(tmp_path / "adapter_model.safetensors")
    assert len(arrays) == 2 * 2 * 3
    assert arrays["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].shape[0] == 2
    again = loading.load_adapter(tmp_path, model, lora.without(params))
    for name, leaf in trees.flatten(params).items():
        np.testing.assert_array_equal(trees.flatten(again)[name], leaf, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', but only 'LORA'"),
        ({"use_dora": True}, "use_dora is set, but DoRA"),
        ({"q_proj": "x_proj"}, "not an adapter of a dense layer here: did you mean 'model.layers.0.self_attn.._proj'"),
        ({"lora_B": None}, "lora_A.weight is there, but .*lora_B.weight is missing"),
        ({"rows": 3}, "but the layer has 32 inputs"),
    ],
)
def test_an_adapter_that_doesnt_fit(llama, tmp_path, change, message):
    model, params = llama
    loading.save_adapter(tmp_path, model, params)
    said = json.loads((tmp_path / "adapter_config.json").read_text()) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    arrays = dict(files.read(tmp_path / "adapter_model.safetensors"))
    if "rows" in change:
        arrays = {key: array[..., :3] if "lora_A" in key else array for key, array in arrays.items()}
    for old, new in change.items():
        arrays = {key.replace(old, str(new or old)): array for key, array in arrays.items() if new or old not in key}
    files.write(tmp_path / "adapter_model.safetensors", arrays, {})
    with pytest.raises(WeightsError, match=message):
        loading.load_adapter(tmp_path, model, lora.without(params))


def test_no_adapter_to_save(gpt, tmp_path):
    with pytest.raises(WeightsError):
        loading.save_adapter(tmp_path, gpt[0], gpt[1])
