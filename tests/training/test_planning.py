"""Estimates: bytes are those that a sum by hand gives, traffic is what the mesh needs, and plans are arithmetic."""

import importlib.util
import json
import math
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest

import deepmodels
from deepmodels import cli, models, parallel, trees
from deepmodels.analysis.collectives import Traffic, bytes_accessed, collectives
from deepmodels.errors import ConfigError, TooLarge
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
    assert found.gradient_bytes + found.activation_bytes == found.temporary_bytes
    assert found.accessed_bytes > found.argument_bytes
    assert found.intensity == found.step_flops / 8 / found.accessed_bytes
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


def test_a_loop_whose_iterations_only_its_condition_tells():
    hlo = HLO.replace(', backend_config={"known_trip_count":{"n":"3"}}', "").replace(
        "%body (p", "%c (p: (s32[], f32[8])) -> pred[] {\n  %n = s32[]{:T(128)} constant(3)\n}\n\n%body (p", 1
    )
    assert "known_trip" in hlo
    assert collectives(hlo) == collectives(HLO)


def test_bytes_accessed_are_those_of_xla_and_a_loop_counts_for_each_iteration():
    def steps(unroll):
        def step(x, w):
            return jax.numpy.tanh(x @ w), None

        return lambda x, w: jax.lax.scan(step, x, w, unroll=unroll)[0]

    x, w = jax.ShapeDtypeStruct((64, 128), np.float32), jax.ShapeDtypeStruct((6, 128, 128), np.float32)
    apart, loop = (jax.jit(steps(unroll)).lower(x, w).compile() for unroll in (6, 1))
    expected = apart.cost_analysis()["bytes accessed"]
    assert bytes_accessed(apart.as_text()) == pytest.approx(expected, rel=0.05)
    assert bytes_accessed(loop.as_text()) == pytest.approx(expected, rel=0.3)
    assert loop.cost_analysis()["bytes accessed"] < 0.5 * expected


def test_the_plan_of_gpt_3_is_that_of_the_paper():
    count = models.MODELS["gpt3_175b"].parameters
    found = planning.plan(512, 6 * count * 2**20, 2**20, count, 60e9, "h100", tokens=300e9, utilisation=0.5, price=2.0)
    assert found.petaflops_days == pytest.approx(3640, rel=0.01)  # table D.1 of it
    assert found.memory_share == 0.75
    days = 6 * count * 300e9 / (512 * 989.4e12 * 0.5) / 86_400
    assert found.days == pytest.approx(days)
    assert found.cost == pytest.approx(days * 24 * 512 * 2)
    assert found.megawatt_hours == pytest.approx(days * 24 * 512 * 700 / 1e6)
    lines = found.lines()
    assert lines["6 x N x tokens"] == "3.143e+23 operations, 3,638 petaflop/s-days"
    assert lines["memory"] == "fits: 75% of a device's"


def test_what_is_not_known_is_said_to_be_unknown():
    plan = partial(planning.plan, 1, 1e12, 1024, 10, 100e9, tokens=1e9, utilisation=0.4)
    tpu = plan("tpu_v5p", price=None)
    assert (tpu.megawatt_hours, tpu.cost) == (None, None)
    assert tpu.lines()["energy"] == tpu.lines()["cost"] == "unknown"
    assert tpu.lines()["memory"].startswith("doesn't fit")
    for name, said in ((None, "unknown"), ("h10", "unknown: 'h10', did you mean 'h100'?")):
        other = plan(name, price=2.0)
        assert (other.memory_share, other.step_seconds, other.days, other.cost) == (None, None, None, None)
        assert other.lines()["hardware"] == said
        assert other.lines()["time of a step"] == other.lines()["time in all"] == "unknown"


def test_pictures_pairs_and_what_says_too_little():
    found = deepmodels.estimate("mlp_tiny", mesh={"data": 8})
    assert (found.step_tokens, found.plan.hardware) == (None, None)
    assert planning.of_model("t5_small").objective.name == "sequence_to_sequence"
    with pytest.raises(ConfigError, match="doesn't follow from its inputs: give an experiment's config"):
        deepmodels.estimate("vae")
    with pytest.raises(ConfigError, match="no budget of them"):
        deepmodels.estimate("mlp_tiny", mesh={"data": 8}, tokens=1e9)
    with pytest.raises(ConfigError, match="utilisation: expected a share"):
        planning.plan(1, 1.0, 1, 1, 1, None, tokens=None, utilisation=0.0, price=None)


def test_topologies(monkeypatch, capsys):
    def said(topology):
        with pytest.raises(SystemExit) as exit_info:
            cli.main(("estimate", "gpt_tiny", "--topology", topology))
        assert exit_info.value.code == 1
        return capsys.readouterr().err

    assert "expected a number of devices, or a slice of TPUs such as tpu:v5p:4x8x8" in said("0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "libtpu, which the extra tpu installs" in said("tpu:v5p:4x8x8")


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.42G of 15.75G hbm.",
        "RESOURCE_EXHAUSTED: HLO temporaries (16.42G) exceeds available HBM (15.75G).",
    ],
)
def test_a_program_that_does_not_fit(monkeypatch, text):
    def compile(self, state, batch):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(planning.JitStep, "compile", compile)
    with pytest.raises(TooLarge, match=r"mlp_tiny on 8 devices, data=8: does not fit: needs 16.42G of 15.75G"):
        deepmodels.estimate("mlp_tiny", mesh={"data": 8})


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


GPT_3 = "experiments/gpt3.py"


def command(*arguments):
    """Runs the command in a process of its own, in which JAX starts with other devices."""
    arguments = [sys.executable, "-m", "deepmodels", "estimate", *arguments]
    return subprocess.run(arguments, capture_output=True, text=True)


def hand_sum() -> dict[str, float]:
    """What a device holds at the worst moment of GPT-3 175B's step on data=2, fsdp=32, tensor=8, by hand.

    That moment is in the backward pass of a pair of layers, the dense and the banded one, which `remat="full"` has
    computed once more. XLA's CPU back end multiplies float32 only, so what enters a product is float32.
    """
    words, channels, layers, heads, length = 50_257, 12_288, 96, 96, 2048
    fsdp, tensor, texts = 32, 8, 4  # 1,536 texts of a batch in 64 shares and 6 parts
    rows = texts * length
    kernels = layers * 12 * channels**2 / (fsdp * tensor)  # 4 of the attention, 8 of the dense layers
    words_embedded, positions_embedded = words * channels / tensor, length * channels / fsdp  # 32 doesn't divide words
    parameters = 4 * (kernels + words_embedded + positions_embedded)
    stream, hidden = rows * channels, rows * 4 * channels / tensor
    return {
        "parameters": parameters,
        "optimizer": 2 * parameters,  # Adam's two moments
        "sums of gradients": parameters,  # of the parts of a batch
        "kernels in bfloat16": 2 * kernels,
        "gradients of this part": 2 * kernels,  # in bfloat16
        "gradients of embeddings": (2 + 4) * words_embedded
        + 4 * length * channels,  # as logits, and as words; positions
        "kept between pairs of layers": 2 * (layers / 2) * stream / tensor,  # bfloat16, channels divided
        # of the two layers, what the softmax is of, and what it gives
        "attention": 2 * 2 * texts * (heads / tensor) * length**2 * 4,
        # queries, keys, values and the first dense layer each gather their input, in two layers; and one is transposed
        "inputs of products": (2 * 4 + 1) * stream * 4,
        "gathered kernels": 2 * 12 * channels**2 / tensor * 4,
        # GELU and its derivative: what goes into products in float32, other terms in bfloat16
        "hidden of the dense layers": 5 * hidden * 4 + 4 * hidden * 2,
        # normalised inputs, sums, queries, keys, values of two layers, channels divided
        "divided streams": 18 * stream / tensor * 4,
    }


@pytest.mark.slow
def test_gpt_3_is_planned_on_512_devices():
    """pytest -m slow tests/training/test_planning.py -k 512"""
    done = command(GPT_3, "--topology", "512", "--tokens", "300e9", "--hardware", "h100", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parameters"] == 174_604_259_328
    assert found["mesh"] == {"data": 2, "fsdp": 32, "tensor": 8}
    parts = hand_sum()
    assert found["parameter_bytes"] == pytest.approx(parts["parameters"], rel=0.001)
    assert found["optimizer_bytes"] == pytest.approx(parts["optimizer"], rel=0.001)
    assert found["peak_bytes"] == pytest.approx(sum(parts.values()), rel=0.05), parts
    assert found["plan"]["petaflops_days"] == pytest.approx(3640, rel=0.01)
    assert found["plan"]["memory_share"] == found["peak_bytes"] / 80e9 < 1
    assert found["compile_seconds"] + found["lower_seconds"] < 600


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the extra tpu isn't installed")
def test_gpt_3_compiles_for_256_chips_of_tpu_v5p_and_does_not_fit_v5e():
    """pip install -e '.[tpu]' pytest && pytest -m slow tests/training/test_planning.py -k v5p"""
    mesh = ("--mesh", "data=1,fsdp=32,tensor=8", "--json")
    done = command(GPT_3, "--topology", "tpu:v5p:4x8x8", *mesh)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["plan"]["hardware"] == "tpu_v5p"
    assert found["plan"]["memory_share"] < 0.5
    assert found["collectives"]["all-gather"]["count"] > 96
    done = command(GPT_3, "--topology", "tpu:v5e:16x16", *mesh)
    assert done.returncode == 1
    assert "does not fit: needs " in done.stderr
