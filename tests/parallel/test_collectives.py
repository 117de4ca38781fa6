"""What the devices say to each other in a training step, against a golden: a gather too many is seen at once.

    python -m tests.parallel.test_collectives

writes tests/golden/collectives.json again, for the minor version of jax that runs it.
"""

import json
import pathlib

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import deepmodels
from deepmodels.parallel import rules
from deepmodels.training import experiment

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/collectives.json"
VERSION = ".".join(jax.__version__.split(".")[:2])

OPTIMIZER = {"name": "adamw", "learning_rate": 1e-3}
TEXTS = {"name": "synthetic", "length": 16, "vocab_size": 64, "batch_size": 16}
GPT = {
    "steps": 1,
    "model": {
        "name": "gpt3_tiny", "hidden_size": 64, "num_layers": 4, "num_heads": 4, "vocab_size": 64, "remat": "full"
    },
    "objective": {"name": "language_modelling"},
    "data": TEXTS,
    "optimizer": OPTIMIZER,
}  # fmt: skip
PAIRS = {
    "gpt data=8": (GPT, {"data": 8}),
    "gpt fsdp=8": (GPT, {"fsdp": 8}),
    "gpt data=2 fsdp=2 tensor=2": (GPT, {"data": 2, "fsdp": 2, "tensor": 2}),
    "mlp_tiny fsdp=8": ("mlp_tiny", {"fsdp": 8}),
}
SMALL = 64  # elements, so that leaves of tiny models are placed as large ones are


def measured(pair: str) -> dict[str, list[int]]:
    """Returns the count and the bytes of each kind of collective in the compiled step of a pair."""
    config, mesh = PAIRS[pair]
    found = deepmodels.estimate(config, mesh=mesh).collectives
    return {kind: [traffic.count, traffic.bytes] for kind, traffic in sorted(found.items())}


def golden_of(pair: str) -> dict[str, list[int]]:
    """Returns what `measured` gave under this version of jax; compilers differ."""
    golden = json.loads(GOLDEN.read_text())
    if VERSION not in golden:
        pytest.skip(f"no golden for jax {VERSION}: python -m tests.parallel.test_collectives writes one")
    return golden[VERSION][pair]


@pytest.fixture(autouse=True)
def shard_small_ones(monkeypatch):
    monkeypatch.setattr(rules, "SMALL", SMALL)


LONG = ("gpt data=8", "gpt data=2 fsdp=2 tensor=2")


@pytest.mark.parametrize("pair", [pytest.param(pair, marks=[pytest.mark.slow] * (pair in LONG)) for pair in PAIRS])
def test_collectives_are_those_of_the_golden(pair):
    assert measured(pair) == golden_of(pair)


def test_a_gather_of_the_whole_model_is_seen(monkeypatch):
    pair = "gpt fsdp=8"
    golden = golden_of(pair)
    make_step = experiment.make_step

    def make(x, axis_name):
        step, whole = make_step(x, axis_name), NamedSharding(x.mesh, PartitionSpec())
        return lambda state, *rest: step(jax.lax.with_sharding_constraint(state, whole), *rest)

    monkeypatch.setattr(experiment, "make_step", make)
    assert measured(pair)["all-gather"][1] > golden["all-gather"][1]


def main() -> None:
    rules.SMALL = SMALL
    kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    kept[VERSION] = {pair: measured(pair) for pair in PAIRS}
    GOLDEN.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main()
