"""DeepSeek's routing and its full sizes. tests/models/test_llama.py holds what it has in common with Llama's lineage,
tests/weights/test_llama_parity.py compares with transformers."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import parallel, trees
from deepmodels.errors import ConfigError
from deepmodels.models import MODELS, create
from deepmodels.models.deepseek import Router, Routes


def routed(routes, logits, bias=None, **given):
    """What a router gives whose logits are these."""
    logits = jnp.asarray(logits, jnp.float32)
    params = {"logits": {"kernel": jnp.eye(logits.shape[-1])}}
    variables = {"params": params} | ({"balance": {"bias": jnp.asarray(bias)}} if routes.sigmoid else {})
    return Router(routes).apply(variables, logits, None, train=given.pop("train", False), **given)


def test_the_bias_chooses_and_does_not_weigh():
    logits = [[2.0, 1.0, 0.0, -1.0]]
    plain = routed(Routes(4, 2, factor=3.0), logits, np.zeros(4, np.float32))
    assert sorted(plain.chosen[0].tolist()) == [0, 1]
    biased = routed(Routes(4, 2, factor=3.0), logits, np.array([0, 0, 0, 5], np.float32))
    assert sorted(biased.chosen[0].tolist()) == [0, 3]
    scores = {i: 1 / (1 + np.exp(-logit)) for i, logit in enumerate(logits[0])}
    for expert, weight in zip(biased.chosen[0].tolist(), biased.weights[0].tolist(), strict=True):
        assert weight == pytest.approx(3 * scores[expert] / (scores[0] + scores[3]), rel=1e-5)


def test_choices_stay_within_the_best_groups():
    # the largest expert is in the first group, the largest sum of two in the second
    logits = [[3.0, -9.0, 1.5, 1.4, 0.0, 0.0]]
    v3 = Routes(6, 2, num_groups=3, num_chosen_groups=1)
    assert sorted(routed(v3, logits, np.zeros(6, np.float32)).chosen[0].tolist()) == [2, 3]
    v2 = Routes(6, 2, sigmoid=False, num_groups=3, num_chosen_groups=1)
    assert sorted(routed(v2, logits).chosen[0].tolist()) == [0, 1]
    assert sorted(routed(v2._replace(num_chosen_groups=3), logits).chosen[0].tolist()) == [0, 2]


def test_v2_weighs_by_its_softmax():
    logits = np.array([[1.0, 0.5, 0.0, -1.0]], np.float32)
    got = routed(Routes(4, 2, sigmoid=False, factor=2.0), logits)
    softmax = np.exp(logits[0]) / np.exp(logits[0]).sum()
    np.testing.assert_allclose(got.weights[0], 2 * softmax[:2], rtol=1e-5)


def test_the_bias_grows_where_there_is_too_little_and_only_in_training():
    logits = np.tile(np.array([[2.0, 1.0, 0.0, -1.0]], np.float32), (6, 1))
    routes, bias = Routes(4, 2), np.zeros(4, np.float32)
    _, updated = routed(routes, logits, bias, train=True, mutable=["balance"])
    np.testing.assert_allclose(updated["balance"]["bias"], [-0.001, -0.001, 0.001, 0.001], rtol=1e-5)
    _, updated = routed(routes, logits, bias, train=False, mutable=["balance"])
    np.testing.assert_array_equal(updated["balance"]["bias"], bias)


def test_v3_whole_in_seconds():
    """671 billion parameters: count, shapes, cache, and what each of 16 devices would hold."""
    begin = time.monotonic()
    model, tokens = create("deepseek_v3"), jax.ShapeDtypeStruct((1, 128), np.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    assert trees.count(variables["params"]) == 671_026_404_352 == MODELS["deepseek_v3"].parameters
    logits = jax.eval_shape(model.apply, variables, tokens)
    assert logits.shape == (1, 128, 129_280)
    kept = {name: array.shape for name, array in jax.eval_shape(lambda: model.start(1, 1024)).items()}
    assert kept == {"position": (1,), "latents": (1, 61, 1024, 512), "rotary_keys": (1, 61, 1024, 64)}
    logits, _ = jax.eval_shape(
        lambda v, t, c: model.apply(v, t, c, method="step"), variables, jnp.zeros(1, jnp.int32), model.start(1, 8)
    )
    assert logits.shape == (1, 129_280)

    mesh = parallel.make_mesh({"data": 1, "fsdp": 2, "tensor": 4})
    placed = trees.flatten(parallel.shardings(variables["params"], mesh))
    leaves = trees.flatten(variables["params"])
    held = sum(np.prod(placed[name].shard_shape(leaf.shape)) for name, leaf in leaves.items())
    assert held == pytest.approx(trees.count(variables["params"]) / 8, rel=1e-3)
    kernel = "layers/mlp/experts/up/kernel"
    assert placed[kernel].shard_shape(leaves[kernel].shape) == (58, 256, 3584, 512)  # a part of each expert
    apart = trees.flatten(parallel.shardings(variables["params"], parallel.describe_mesh({"fsdp": 2, "expert": 4})))
    assert apart[kernel].shard_shape(leaves[kernel].shape) == (58, 64, 3584, 2048)  # 64 experts, halved by fsdp
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_dense_layers": 3}, "num_dense_layers: expected fewer than num_layers, which is 3, got 3"),
        ({"routes": Routes(4, 2, num_groups=3)}, "4 experts can't be 3 groups"),
        ({"routes": Routes(4, 3, num_groups=2, num_chosen_groups=1)}, "3 experts can't be chosen"),
        ({"routes": {"num_expert": 4, "num_chosen": 2}}, "unknown entry of routes 'num_expert'"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        jax.eval_shape(create("deepseek_tiny", **arguments).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
