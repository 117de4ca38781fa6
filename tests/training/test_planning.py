"""Estimates: bytes are those that a sum by hand gives, traffic is what the mesh needs, and plans are arithmetic."""

import json
import math
import subprocess
import sys

import jax
import numpy as np
import pytest

import deepmodels
from deepmodels import cli, models, parallel, trees
from deepmodels.analysis.collectives import Traffic, collectives
from deepmodels.analysis.hardware import HARDWARE
from deepmodels.errors import ConfigError
from deepmodels.parallel import rules
from deepmodels.training import planning

GPT = {"name": "gpt3_tiny", "hidden_size": 64, "num_layers": 4, "num_heads": 4, "vocab_size": 64, "remat": "full"}
CONFIG = {
    "steps": 1,
    "model": GPT,
    "objective": {"name": "language_modelling"},
    "data": {"name": "synthetic", "length": 16, "vocab_size": 64, "batch_size": 16},
    "optimizer": {"name": "adamw", "learning_rate": 1e-3},
}


@pytest.fixture(autouse=True)
def shard_small_ones(monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 64)


def test_bytes_and_traffic_of_a_sharded_decoder():
    found = deepmodels.estimate(CONFIG, mesh={"fsdp": 8})
    variables = jax.eval_shape(models.create(**GPT).init, jax.random.key(0), np.zeros((1, 16), np.int32))
    leaves = trees.flatten(variables["params"])
    assert found.parameters == sum(leaf.size for leaf in leaves.values())
    # each leaf has a dimension that eight devices divide; Adam has two numbers of a parameter, and a count
    assert found.parameter_bytes == 4 * found.parameters // 8
    assert found.optimizer_bytes == 2 * found.parameter_bytes + 4 + 4  # Adam's count, and the schedule's
    assert found.other_bytes == 4 + 2 * 16 * 4  # the step, and two of the sixteen texts
    assert found.argument_bytes == found.parameter_bytes + found.optimizer_bytes + found.other_bytes
    assert found.peak_bytes >= found.argument_bytes + found.temporary_bytes
    whole = 4 * sum(leaf.size for name, leaf in leaves.items() if "layers" in name and "kernel" in name)
    gathered = found.collectives["all-gather"]
    # parameters come together for the forward pass, and for its repetition and the backward pass; the batch never does
    assert 2 * whole <= gathered.bytes <= 2.5 * whole, (gathered, whole)
    assert found.step_tokens == 256
    assert found.step_flops == deepmodels.estimate(CONFIG, devices=jax.devices()[:1]).step_flops
    assert "8 devices, fsdp=8" in str(found)
    json.dumps(found.to_dict())


def test_data_alone_needs_the_gradients_once():
    found = deepmodels.estimate(CONFIG, mesh={"data": 8})
    assert set(found.collectives) == {"all-reduce"}
    assert 4 * found.parameters <= found.collectives["all-reduce"].bytes <= 4.2 * found.parameters


HLO = """HloModule step

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %r = f32[] add(%x, %y)
}

%inner (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %g = f32[8,4]{1,0} all-gather(%a), dimensions={0}
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %w = (s32[], f32[8]) while(%p), condition=%c, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
  %r = bf16[16]{0} reduce-scatter(%b), to_apply=%add
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %s = (f32[2]{0}, f32[6]{0}) all-gather-start(%x), dimensions={0}
  %d = f32[6]{0} all-gather-done(%s)
  %v = (f32[2]{0}, pred[5]{0}) all-reduce(%y, %z), to_apply=%add
  %w = (s32[], f32[8]) while(%q), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
}
"""


def test_collectives_in_loops_count_for_each_iteration():
    assert collectives(HLO) == {
        "all-reduce": Traffic(1, 2 * 4 + 5),
        "all-gather": Traffic(1 + 15, 6 * 4 + 15 * 32 * 4),
        "reduce-scatter": Traffic(5, 5 * 16 * 2),
    }


def test_the_plan_of_gpt_3_is_that_of_the_paper():
    count = models.MODELS["gpt3_175b"].parameters
    lines = planning.plan(
        512, 6 * count * 2**20, 2**20, count, 60e9, HARDWARE["h100"], tokens=300e9, utilisation=0.5, price=2.0
    )
    assert lines["6 x N x tokens"] == "3.143e+23 operations, 3,638 petaflop/s-days"  # table D.1 of it has 3,640
    assert lines["memory"] == "fits: 75% of 80 GB"
    days = 6 * count * 300e9 / (512 * 989.4e12 * 0.5) / 86_400
    assert lines["time in all"] == f"{days:,.1f} days"
    assert lines["cost"] == f"{days * 24 * 512 * 2:,.0f}"
    tpu = planning.plan(1, 1e12, 1024, 10, 100e9, HARDWARE["tpu_v5p"], tokens=1e9, utilisation=0.4, price=None)
    assert tpu["energy"].startswith("unknown")
    assert tpu["memory"].startswith("doesn't fit")


def test_pictures_pairs_and_what_says_too_little():
    found = deepmodels.estimate("mlp_tiny", mesh={"data": 8})
    assert (found.step_tokens, found.plan) == (None, None)
    assert planning.of_model("t5_small").objective.name == "sequence_to_sequence"
    with pytest.raises(ConfigError, match="doesn't follow from its inputs: give an experiment's config"):
        deepmodels.estimate("vae")
    with pytest.raises(ConfigError, match="no budget of them"):
        deepmodels.estimate("mlp_tiny", mesh={"data": 8}, tokens=1e9)
    with pytest.raises(ConfigError, match="unknown hardware 'h10': did you mean 'h100'"):
        deepmodels.estimate("mlp_tiny", hardware="h10")
    with pytest.raises(ConfigError, match="utilisation: expected a share"):
        planning.plan(1, 1.0, 1, 1, 1, None, tokens=None, utilisation=0.0, price=None)


def test_a_mesh_without_devices_places_leaves():
    mesh = parallel.describe_mesh({"fsdp": 4, "tensor": 2})
    leaf = jax.ShapeDtypeStruct((64, 32), np.float32)
    (place,) = jax.tree.leaves(parallel.shardings({"dense": {"kernel": leaf}}, mesh))
    assert math.prod(place.shard_shape(leaf.shape)) == leaf.size // 8
    with pytest.raises(ConfigError, match="nothing for -1 to take"):
        parallel.describe_mesh({"data": -1})


def test_where_parameters_live(capsys):
    cli.main(("info", "gpt2", "--mesh", "data=2,fsdp=4,tensor=2"))
    printed = capsys.readouterr().out
    assert "layers/dense1/kernel" in printed
    places = {place.name: place for place in deepmodels.analysis.placement("gpt2", {"fsdp": 4, "tensor": 2})}
    assert places["layers/dense1/kernel"].axes == (None, "fsdp", "tensor")
    assert places["layers/dense2/kernel"].axes == (None, "tensor", "fsdp")
    assert places["layers/dense1/kernel"].bytes == 12 * 768 * 3072 * 4 // 8
    assert f"{sum(place.bytes for place in places.values()):,} bytes of each device" in printed
    with pytest.raises(ConfigError, match="attention/key/kernel .* can't be divided by the mesh axis tensor=5"):
        deepmodels.analysis.placement("gpt2", {"tensor": 5})


@pytest.mark.slow
def test_gpt_3_is_planned_on_512_devices(tmp_path, capfd):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(("estimate", "experiments/gpt3.py", "--topology", "0"))
    assert exit_info.value.code == 1
    command = [sys.executable, "-m", "deepmodels", "estimate", "experiments/gpt3.py", "--topology", "512", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["parameters"] == 174_604_259_328
    assert found["mesh"] == {"data": 2, "fsdp": 32, "tensor": 8}
    assert found["peak_bytes"] < 80e9
