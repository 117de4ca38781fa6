"""A pipeline computes what one device does: loss and gradients in float64, for stacks of several kinds and meshes."""

from functools import cache

import jax
import numpy as np
import pytest

from deepmodels import parallel, trees
from deepmodels.errors import ConfigError
from deepmodels.parallel import rules
from deepmodels.training import experiment, pipeline

TEXTS = {"name": "synthetic", "length": 12, "vocab_size": 64, "batch_size": 16}
LANGUAGE = {"objective": {"name": "language_modelling"}, "data": TEXTS}
PAIRS = {"objective": {"name": "sequence_to_sequence"}, "data": TEXTS | {"target_length": 8}}
PICTURES = {"data": {"name": "synthetic", "image_shape": (16, 16, 3), "num_classes": 8, "batch_size": 16}}
SIZES = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "vocab_size": 64}
MODELS = {
    "gpt": LANGUAGE | {"model": {"name": "gpt_tiny", **SIZES, "num_layers": 2, "remat": "full"}},
    "gpt3": LANGUAGE
    | {"model": {"name": "gpt3_tiny", **SIZES}, "objective": {**LANGUAGE["objective"], "chunk_size": 4}},
    "llama": LANGUAGE | {"model": {"name": "llama_tiny", **SIZES, "num_kv_heads": 2}},
    "gemma3": LANGUAGE | {"model": {"name": "gemma3_tiny", "num_layers": 4, "vocab_size": 64}},
    "t5": PAIRS | {"model": {"name": "t5_tiny", "num_layers": 4, "vocab_size": 64, "dropout_rate": 0.0}},
    "transformer": PAIRS
    | {"model": {"name": "transformer_tiny", "num_layers": 4, "vocab_size": 64, "dropout_rate": 0.0}},
    "vit": PICTURES | {"model": {"name": "vit_tiny", "num_layers": 4, "num_classes": 8, "image_size": 16}},
}


@pytest.fixture(autouse=True)
def shard_small_ones(monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)


def config(name, mesh, **values):
    return (
        MODELS[name]
        | {
            "steps": 1,
            "optimizer": {"name": "sgd", "learning_rate": 1.0},
            "precision": "float64",
            "mesh": mesh,
        }
        | values
    )


def gradients(config, devices):
    """Returns the loss and the gradients of the first step of a config, by name."""
    x = experiment.make(config, devices)
    state = x.init()
    batch = parallel.place(next(experiment.train_batches(x, 0)), x.mesh)
    step = jax.jit(experiment.make_step(x, None))
    after, metrics = step(state, batch)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), state.params, after.params)
    return trees.flatten(moved) | {"loss": metrics["loss"], "accuracy": metrics["accuracy"]}


@cache
def alone(name):
    return gradients(config(name, {"data": 1}), jax.devices()[:1])


def check(name, mesh, **values):
    expected, found = alone(name), gradients(config(name, mesh, **values), jax.devices())
    assert expected.keys() == found.keys()
    assert max(np.abs(leaf).max() for leaf in expected.values()) > 1e-3
    for leaf, value in expected.items():
        np.testing.assert_allclose(found[leaf], value, rtol=0, atol=1e-10, err_msg=leaf)


def test_a_pipeline_is_one_device(float64):
    check("gpt", {"data": 2, "fsdp": 2, "pipeline": 2}, microbatches=2)


MESHES = (
    {"pipeline": 2, "data": 4},
    {"pipeline": 2, "fsdp": 4},
    {"pipeline": 4, "tensor": 2},
    {"pipeline": 2, "data": 2, "fsdp": 2},
    {"pipeline": 2, "fsdp": 2, "tensor": 2},
)


CASES = [("gpt", mesh) for mesh in MESHES if mesh["pipeline"] == 2]
CASES += [(name, MESHES[-1]) for name in MODELS if name != "gpt"]
CASES += [("llama", MESHES[2])]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mesh"), CASES, ids=[f"{name} {parallel.written(mesh)}" for name, mesh in CASES])
def test_every_stack_of_layers_is_one_device(float64, name, mesh):
    """pytest -m slow tests/training/test_pipeline_parallel.py"""
    check(name, mesh, microbatches=4)


@pytest.mark.slow
def test_accumulated_parts_go_through_the_pipeline_one_by_one(float64):
    """pytest -m slow tests/training/test_pipeline_parallel.py -k accumulated"""
    check("gpt", {"pipeline": 2, "data": 2, "fsdp": 2}, microbatches=2, accumulate=2)


def test_microbatches_and_bubble():
    mesh = parallel.describe_mesh({"pipeline": 4, "data": 2})
    assert pipeline.microbatches(None, mesh) == 16
    assert pipeline.microbatches(8, mesh) == 8
    assert pipeline.microbatches(8, parallel.describe_mesh({"data": 8})) == 1
    assert pipeline.bubble(4, 16) == 3 / 19


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"microbatches": 3}, r"batch_size=16 can't be divided by 12 .* accumulate x microbatches\): 12 can"),
        ({"mesh": {"pipeline": 8}}, r"2 layers can't be divided by the mesh axis pipeline=8; the nearest size .* is 2"),
        ({"model": {"name": "lenet_tiny"}, **PICTURES}, "pipeline=2: the model has no stack of layers of one shape"),
        ({"lora": {"rank": 2}}, "all parameters train in a pipeline"),
        ({"microbatches": 0}, "config.microbatches is a positive whole number"),
    ],
)
def test_what_cannot_be_a_pipeline(changes, message):
    given = {"mesh": {"data": 4, "pipeline": 2}, "microbatches": 2, "precision": "float32"} | changes
    if "data" in changes:
        given["objective"] = {"name": "classification"}
    with pytest.raises(ConfigError, match=message):
        experiment.make(config("gpt", given.pop("mesh"), **given))


def test_layers_with_losses_of_their_own_are_no_pipeline():
    model = {"name": "mixtral_tiny", "num_layers": 2, "vocab_size": 64}
    x = experiment.make(config("gpt", {"data": 4, "pipeline": 2}, model=model, precision="float32", microbatches=2))
    batch = {"tokens": jax.ShapeDtypeStruct((16, 12), np.int32)}
    with pytest.raises(ConfigError, match="losses of their own, such as the balance of experts"):
        jax.eval_shape(experiment.make_step(x, None), x.abstract, batch)
