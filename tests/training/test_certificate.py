"""The certificate of exact resumption: real kills, one experiment of each objective; and what it must not overlook."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import config as configs
from deepmodels import integrity
from deepmodels.errors import ConfigError, DeepModelsError
from deepmodels.training import certificate, certify

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Of the runs, which are processes of their own."""
    monkeypatch.setenv("XLA_FLAGS", "")


def test_a_single_bit_of_any_leaf_is_a_difference():
    state = {"params": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "key": jax.random.key(0), "step": jnp.int32(3)}
    assert certificate.differences(state, dict(state)) == []
    bits = np.array(state["params"]["kernel"])
    bits.view(np.uint32)[0, 1] ^= 1
    others = {
        "params/kernel": state | {"params": {"kernel": bits}},
        "key": state | {"key": jax.random.key(1)},
        "step": state | {"step": jnp.uint32(3)},
    }
    for name, other in others.items():
        assert certificate.differences(state, other) == [name]
        assert integrity.sha256(state) != integrity.sha256(other)
    reshaped = {"params": {"kernel": jnp.arange(6.0).reshape(3, 2)}}
    assert certificate.differences(state, reshaped) == ["key", "params/kernel", "step"]


def test_a_zero_and_its_negative_differ():
    assert certificate.differences({"x": jnp.float32(0.0)}, {"x": jnp.float32(-0.0)}) == ["x"]


def test_what_it_refuses(tiny_config, tmp_path):
    for steps in (0, 7):
        with pytest.raises(ConfigError, match=f"even number of steps, half before the kill, got {steps}"):
            certify(tiny_config(), tmp_path, steps=steps)
    (tmp_path / "killed").mkdir()
    with pytest.raises(ConfigError, match="killed is there already"):
        certify(tiny_config(), tmp_path)


def test_a_schedule_keeps_the_length_of_the_whole_run(tiny_config):
    optimizer = {"name": "sgd", "learning_rate": 0.1, "schedule": {"name": "cosine"}}
    short = certificate._of(tiny_config(steps=500, optimizer=optimizer), 20)
    assert short["steps"] == 20
    assert short["optimizer"]["schedule"]["steps"] == 500
    assert short["every"]["checkpoint"] == 10


@pytest.mark.slow
@pytest.mark.parametrize(
    "file",
    [
        "lenet5_fashion",
        "decoder_state_of_the_union",
        "vae_fashion",
        "dcgan_fashion",
        "ddpm_fashion",
        "dbn_fashion",
    ],
)
def test_every_objective_goes_on_exactly_after_a_kill(file, tmp_path):
    found = certify(configs.load(f"{EXPERIMENTS / file}.py:smoke"), tmp_path, steps=20)
    assert found.same, found.differing
    assert found.killed_after == 10
    assert found.sha256["undisturbed"] == found.sha256["killed"]
    assert json.loads((tmp_path / "certificate.json").read_text())["sha256"] == found.sha256


@pytest.mark.slow
def test_data_that_begins_again_is_no_exact_resumption(tiny_config, tmp_path, monkeypatch):
    restart = (
        "from deepmodels.training import experiment as e; f = e.train_batches; e.train_batches = lambda x, *_: f(x, 0)"
    )
    monkeypatch.setattr(certificate, "_TRAIN", f"{restart}\n{certificate._TRAIN}")
    found = certify(tiny_config(), tmp_path)
    assert not found.same
    assert any(name.startswith("params/") for name in found.differing)
    assert found.sha256["undisturbed"] != found.sha256["killed"]
    assert json.loads((tmp_path / "certificate.json").read_text())["same"] is False


@pytest.mark.slow
def test_a_run_that_fails_says_why(tiny_config, tmp_path):
    config = tiny_config(optimizer={"name": "sgd", "learning_rate": 1e30})
    with pytest.raises(DeepModelsError, match=r"(?s)before step 20:.*TrainingError: the .* of step \d+ is (nan|inf)"):
        certify(config, tmp_path)
