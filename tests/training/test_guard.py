"""Steps whose numbers go wrong: left out, gone back from, or the end; and all of it in events.jsonl."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import deepmodels
from deepmodels import trees
from deepmodels.errors import ConfigError
from deepmodels.training import TrainingError, experiment, loop
from deepmodels.training.guard import Host, Watch, observe

SETTINGS = {"z_score": 6.0, "warmup": 20}
RECORDS, BATCH = 64, 8
LOCAL = Path(__file__).parents[2] / "launch" / "local.sh"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One device compiles fastest, and a report is drawn elsewhere."""
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])
    monkeypatch.setattr(loop, "_report", lambda x, workdir, *_: workdir / "report.html")


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Returns a function that makes a config of data in which what some records say of their pictures is a factor."""
    make_prepare = experiment.make_prepare

    def prepared(*arguments):
        inner = make_prepare(*arguments)

        def prepare(batch, key):
            batch = inner(batch, key)
            return batch | {"image": batch["image"] * batch["factor"][:, None, None, None].astype(batch["image"].dtype)}

        return prepare

    monkeypatch.setattr(experiment, "make_prepare", prepared)

    def make(bad=(), steps=16, **guard):
        rng = np.random.default_rng(0)
        arrays = {}
        for split, count in (("train", RECORDS), ("test", BATCH)):
            arrays[f"{split}_image"] = rng.integers(0, 256, (count, 4, 4, 1), np.uint8)
            arrays[f"{split}_label"] = rng.integers(0, 3, count)
            arrays[f"{split}_factor"] = np.ones(count, np.float32)
        arrays["train_factor"][list(bad)] = np.nan
        np.savez(tmp_path / "data.npz", **arrays)
        return {
            "steps": steps,
            "model": {"name": "mlp_tiny", "num_classes": 3},
            "data": {"name": "npz", "path": str(tmp_path / "data.npz"), "batch_size": BATCH},
            "optimizer": {"name": "adamw", "learning_rate": 0.01, "ema": 0.9},
            "every": {"log": 3, "evaluate": steps, "checkpoint": 2},
            "guard": guard,
        }

    return make


def events(workdir, event):
    lines = [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def same(one, other):
    one, other = (trees.flatten(jax.device_get(state)) for state in (one, other))
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


def steps_with(config, record, steps):
    """The steps, from 1, whose batch has a record."""
    x = experiment.make(config)
    return [step + 1 for step in range(steps) if record in experiment.train_records(x, step)]


def test_what_stands_out_is_told_the_same_by_host_and_device():
    rng = np.random.default_rng(0)
    series = [(2 * math.exp(0.1 * rng.normal()), math.exp(0.2 * rng.normal())) for _ in range(60)]
    series[10] = (math.nan, 1.0)
    series[12] = (2.0, math.inf)
    series[14] = (2.0, 0.0)  # a batch without a mistake
    series[40] = (200.0, 100.0)
    series[41] = (2.0, 100.0)
    series[5] = (200.0, 100.0)  # too early to tell
    series[5:6] = series[6:7]
    host, device = Watch(), jax.tree.map(lambda value: jnp.asarray(value, type(value)), Watch())
    step = jax.jit(lambda watch, loss, norm: observe(watch, jnp.arcsinh(loss), jnp.log(norm), SETTINGS))
    found = []
    for loss, norm in series:
        size = math.log(norm) if norm > 0 else -math.inf
        trigger, host = observe(host, math.asinh(loss), size, SETTINGS, Host())
        on_device, device = step(device, np.float32(loss), np.float32(norm))
        assert trigger == int(on_device)
        found.append(trigger)
    assert {i: trigger for i, trigger in enumerate(found) if trigger} == {10: 1, 12: 2, 40: 3, 41: 4}
    np.testing.assert_allclose(np.asarray(host, float), np.asarray([float(value) for value in device]), rtol=2e-4)
    assert (host.count, host.consecutive, host.left_out) == (55, 0, 4)  # neither the bad ones nor the one at rest


def test_a_loss_below_zero_stands_out_on_its_own_scale():
    rng = np.random.default_rng(0)
    watch = Watch()
    for loss in rng.normal(-25, 8, 60):
        trigger, watch = observe(watch, math.asinh(loss), 0.0, SETTINGS, Host())
        assert trigger == 0
    assert math.asinh(2) - watch.loss_mean > 6 * math.sqrt(watch.loss_variance)
    assert [observe(watch, math.asinh(loss), 0.0, SETTINGS, Host())[0] for loss in (2, 200)] == [0, 3]


def test_a_bad_step_is_left_out_and_a_run_goes_on_bit_for_bit(config, tmp_path):
    values = config(bad=[7], policy="skip")
    whole = deepmodels.train(values, tmp_path / "whole", quiet=True)
    bad = steps_with(values, 7, 16)
    assert bad
    found = events(tmp_path / "whole", "bad step")
    assert [line["step"] for line in found] == bad
    for line in found:
        assert (line["action"], line["trigger"], line["loss"]) == ("left out", "loss isn't finite", "nan")
        assert 7 in line["records"]
        assert len(line["records"]) == BATCH
        assert "head/kernel" in line["leaves"]
    metrics = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["guard/left_out"] for line in metrics if "guard/left_out" in line][-1] == len(bad)
    assert all(line["loss"] is not None for line in metrics if "loss" in line)
    assert int(whole.state.step) == 16
    counts = [leaf for name, leaf in trees.flatten(whole.state.opt_state).items() if name.endswith("count")]
    assert {int(count) for count in counts} == {16 - len(bad)}

    deepmodels.train(values | {"steps": 8}, tmp_path / "parts", quiet=True)
    assert same(deepmodels.train(values, tmp_path / "parts", quiet=True).state, whole.state)


def test_too_many_in_a_row_end_the_run(config, tmp_path):
    with pytest.raises(
        TrainingError, match=r"step 3 is the 3th in a row that went wrong \(loss isn't finite"
    ) as raised:
        deepmodels.train(config(bad=range(RECORDS), policy="skip", patience=2), tmp_path / "run", quiet=True)
    assert raised.value.exit_code == 77
    assert [line["action"] for line in events(tmp_path / "run", "bad step")] == ["left out", "left out", "stopped"]


def test_stopping_says_which_gradients_by_making_the_step_again(config, tmp_path):
    values = config(bad=[7])
    bad = steps_with(values, 7, 16)[0]
    with pytest.raises(
        TrainingError, match=rf"the loss of step {bad} is nan.* made again, it is so in the gradient of "
    ):
        deepmodels.train(values, tmp_path / "run", quiet=True)
    (line,) = events(tmp_path / "run", "bad step")
    assert (line["step"], line["action"], 7 in line["records"]) == (bad, "stopped", True)
    (line,) = events(tmp_path / "run", "repeated")
    assert line["same"]
    assert len(line["leaves"]) == len(trees.flatten(experiment.make(values).abstract.params))
    # The policy may change: the same run goes on, without that batch.
    skipped = deepmodels.train(values | {"guard": {"policy": "skip"}}, tmp_path / "run", quiet=True)
    whole = deepmodels.train(values | {"guard": {"policy": "skip"}}, tmp_path / "whole", quiet=True)
    assert same(skipped.state, whole.state)


def test_going_back_passes_over_the_batches_up_to_the_bad_one(config, tmp_path):
    values = config(bad=[7], policy="rollback")
    first, *_ = steps_with(values, 7, 16)
    result = deepmodels.train(values, tmp_path / "run", quiet=True)
    backs = events(tmp_path / "run", "rolled back")
    windows = json.loads((tmp_path / "run" / "run.json").read_text())["windows"]
    start = (first - 1) // 2 * 2  # the checkpoint before it
    assert (backs[0]["step"], backs[0]["to"], backs[0]["passed_over"]) == (first, start, [start, first - 1])
    assert windows[0] == [start, first - start]
    x = experiment.make(values)
    seen = [set(experiment.train_records(x, step, windows).tolist()) for step in range(16)]
    assert not any(7 in batch for batch in seen)
    assert int(result.state.step) == 16
    # A new start knows of the windows too.
    deepmodels.train(values | {"steps": 8}, tmp_path / "parts", quiet=True)
    assert same(deepmodels.train(values, tmp_path / "parts", quiet=True).state, result.state)
    with pytest.raises(TrainingError, match=r"the run has gone back 0 times, config.guard.rollbacks"):
        deepmodels.train(config(bad=[7], policy="rollback", rollbacks=0), tmp_path / "never", quiet=True)


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ({"policy": "jump"}, "config.guard.policy is 'stop', 'skip' or 'rollback', got 'jump'"),
        ({"polcy": "skip"}, "config.guard has no key 'polcy': did you mean 'policy'"),
        ({"patience": -1}, "config.guard.patience is a whole number, 0 or more, got -1"),
        ({"z_score": 0}, "config.guard.z_score is a positive number or None, got 0"),
        ({"warmup": 0}, "config.guard.warmup is a positive whole number, got 0"),
    ],
)
def test_what_a_guard_may_be(config, guard, message):
    with pytest.raises(ConfigError, match=message):
        experiment.make(config(**guard))


CONFIG = """
from deepmodels.training import experiment

make_prepare = experiment.make_prepare


def prepared(*arguments):
    inner = make_prepare(*arguments)

    def prepare(batch, key):
        batch = inner(batch, key)
        return batch | {"image": batch["image"] * batch["factor"][:, None, None, None].astype(batch["image"].dtype)}

    return prepare


experiment.make_prepare = prepared


def get_config():
    return %r
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_several_processes_leave_out_and_go_back_alike(config, tmp_path, policy):
    """Two and four processes end with the same bits: `pytest -m slow tests/training/test_guard.py`."""
    values = config(bad=[7], policy=policy) | {"mesh": {"data": 4, "fsdp": 2}}
    (tmp_path / "config.py").write_text(CONFIG % values)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    for layout in ("2x4", "4x2"):
        command = [LOCAL, layout, f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / layout}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    one, two = (
        ocp.checkpointables_metadata(tmp_path / layout / "checkpoints" / "16").custom_metadata
        for layout in ("2x4", "4x2")
    )
    assert one["digests"] == two["digests"]
    assert one["record"]["windows"] == two["record"]["windows"]
    assert bool(one["record"]["windows"]) == (policy == "rollback")
    one, two = ([line["step"] for line in events(tmp_path / layout, "bad step")] for layout in ("2x4", "4x2"))
    assert one == two != []
