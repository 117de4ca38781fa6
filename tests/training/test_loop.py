"""A run from its config to its report; going on after a kill; and what the loop refuses."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import deepmodels
from deepmodels import config as configs
from deepmodels import trees
from deepmodels.errors import CheckpointError, ConfigError, DataError, ShapeError
from deepmodels.training import Preempted, TrainingError, check_run, experiment, loop
from deepmodels.training.checkpoint import Checkpoints, saved_steps
from deepmodels.training.loop import best_step, should_stop

EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """These tests are about the loop: one device compiles fastest."""
    monkeypatch.setattr(jax, "devices", lambda *_: [jax.local_devices()[0]])


def train(config, workdir, **options):
    return deepmodels.train(config, workdir, **{"quiet": True} | options)


def assert_same_state(one, other):
    one, other = (trees.flatten(jax.device_get(state)) for state in (one, other))
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_metrics_checkpoints_and_a_report(tiny_config, tmp_path, capsys):
    config = tiny_config(data=tiny_config()["data"] | {"validation_size": 100}, keep={"best": "validation/accuracy"})
    result = train(config, tmp_path, quiet=False)
    assert result.report.is_file()
    assert {png.stem for png in (tmp_path / "report").glob("*.png")} >= {"curves", "confusion", "filters", "samples"}
    last = lines(tmp_path)[-1]
    assert last["test/accuracy"] == result.metrics["test/accuracy"]
    assert "compile_seconds" in lines(tmp_path)[0]
    keys = {key for line in lines(tmp_path) for key in line}
    assert keys >= {"loss", "accuracy", "learning_rate", "validation/accuracy", "examples_per_second", "data_stall"}
    assert keys >= {"peak_memory_bytes", "grad_norm", "dispatch_overhead"}
    assert (tmp_path / "metrics.csv").read_text().startswith("step,")
    printed = capsys.readouterr().out
    assert f"test/accuracy {result.metrics['test/accuracy']:.4f}" in printed
    assert str(result.report) in printed
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["versions"]["jax"] == jax.__version__
    assert run["config"]["steps"] == 6
    assert {"git", "command", "devices"} <= run.keys()
    assert deepmodels.evaluate(tmp_path) == result.metrics
    assert set(deepmodels.evaluate(tmp_path, split="validation")) == {"validation/loss", "validation/accuracy"}
    with pytest.raises(ConfigError, match="no split 'tests': did you mean 'test'"):
        deepmodels.evaluate(tmp_path, split="tests")
    with pytest.raises(CheckpointError, match="no checkpoint of step 5, there are"):
        deepmodels.evaluate(tmp_path, step=5)


def test_the_pieces_of_a_run_give_the_whole(tiny_config, tmp_path):
    """N steps = N/2 steps, then the rest: parameters, statistics, optimizer, moving average, all bits."""
    config = tiny_config(
        augment={"random_flip": {}}, optimizer={"name": "adamw", "learning_rate": 0.01, "ema": 0.9, "clip_norm": 1.0}
    )
    whole = train(config, tmp_path / "whole")
    train(config | {"steps": 3}, tmp_path / "parts")
    parts = train(config, tmp_path / "parts")
    assert_same_state(whole.state, parts.state)
    assert whole.metrics == parts.metrics
    one, other = ([line for line in lines(tmp_path / name) if "loss" in line] for name in ("whole", "parts"))
    assert one[-1]["loss"] == other[-1]["loss"]


GAN = {"model": {"name": "gan_tiny", "image_shape": (28, 28, 1)}, "objective": {"name": "adversarial"}}
GAN |= {
    "data": {"name": "fashion_mnist_embedded", "batch_size": 16},
    "critic_steps": 2,
    "adaptive_augment": {"images": 200},
}


@pytest.mark.parametrize("values", [{}, pytest.param(GAN, marks=pytest.mark.slow)], ids=["classifier", "gan"])
def test_kill_and_go_on_bit_for_bit(tiny_config, tmp_path, values):
    """A process is killed at random moments until the run is done; its state is that of an undisturbed run."""
    config = tiny_config(steps=40, every={"log": 1, "evaluate": 20, "checkpoint": 3}, **values)
    (tmp_path / "config.json").write_text(json.dumps(config))
    code = "import json, sys, deepmodels; deepmodels.train(json.load(open(sys.argv[1])), sys.argv[2], quiet=True)"

    def start(workdir):
        command = [sys.executable, "-c", code, tmp_path / "config.json", tmp_path / workdir]
        return subprocess.Popen(command, env=os.environ | {"XLA_FLAGS": ""})  # one layout for all: one device

    rng, starts, kills = np.random.default_rng(), 0, 0
    while True:
        process = start("killed")
        starts += 1
        if kills < 2:
            metrics = tmp_path / "killed" / "metrics.jsonl"
            before = metrics.read_text() if metrics.exists() else ""
            while process.poll() is None and (metrics.read_text() if metrics.exists() else "").count("\n") < 3:
                time.sleep(0.01)
            while process.poll() is None and metrics.read_text() == before:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        elif process.wait() == 0:
            break
        assert starts < 6
    assert kills >= 1
    assert start("whole").wait() == 0
    whole, killed = (train(config, tmp_path / name).state for name in ("whole", "killed"))  # nothing is left to train
    assert_same_state(whole, killed)
    steps = [line["step"] for line in lines(tmp_path / "killed") if "loss" in line]
    assert steps == list(range(1, 41)), "each step is in the metrics once"


def test_other_device_counts_see_the_same_batches(tiny_config, monkeypatch):
    seen = []
    for count in (1, 8):
        monkeypatch.setattr(jax, "devices", lambda *_, count=count: jax.local_devices()[:count])
        x = experiment.make(tiny_config())
        assert x.mesh.size == count
        batches = experiment.train_batches(x, start_step=3)
        seen.append([next(batches) for _ in range(3)])
    for one, other in zip(*seen, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
        np.testing.assert_array_equal(one["label"], other["label"])


def test_a_run_goes_on_on_another_mesh(tiny_config, tmp_path, monkeypatch):
    train(tiny_config(steps=2), tmp_path)
    monkeypatch.setattr(jax, "devices", lambda *_: jax.local_devices())
    moved = train(tiny_config(steps=4, mesh={"data": 4, "fsdp": 2}), tmp_path)
    assert int(moved.state.step) == 4
    assert moved.state.params["head"]["kernel"].sharding.mesh.size == 8


def test_a_changed_config_is_refused_with_the_difference(tiny_config, tmp_path):
    train(tiny_config(steps=2), tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)another config.*config.optimizer.learning_rate: 0.05 -> 0.5"):
        train(tiny_config(steps=2, optimizer={"name": "momentum", "learning_rate": 0.5}), tmp_path)


def test_early_stopping_and_the_best_checkpoint(tiny_config, tmp_path):
    config = tiny_config(
        steps=40,
        data=tiny_config()["data"] | {"validation_size": 100},
        optimizer={"name": "sgd", "learning_rate": 1e-9},  # nothing improves
        every={"log": 5, "evaluate": 5, "checkpoint": 100},
        early_stopping={"metric": "validation/accuracy", "mode": "max", "patience": 2},
        keep={"last": 1, "best": "validation/accuracy"},
    )
    result = train(config, tmp_path)
    evaluated = [line["step"] for line in lines(tmp_path) if "validation/accuracy" in line]
    assert evaluated == [5, 10, 15]
    assert int(result.state.step) == 5, "the first of equals is the best, and it was tested"
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [5, 15]
    train(config, tmp_path)
    assert lines(tmp_path)[-1]["step"] == 15, "a run that has stopped stays stopped"


def test_best_step_and_patience():
    history = [{"step": n, "loss": value} for n, value in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 1.0))]
    assert best_step(history, {"best": "loss", "mode": "min"}) == 2
    assert best_step(history, {"best": "loss", "mode": "max"}) == 1
    assert best_step(history, {"best": None, "mode": "max"}) is None
    assert should_stop(history, {"metric": "loss", "mode": "min", "patience": 2})
    assert not should_stop(history, {"metric": "loss", "mode": "min", "patience": 3})
    assert not should_stop(history, None)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_config, tmp_path):
    config = tiny_config(steps=30, optimizer={"name": "sgd", "learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is (nan|inf)"):
        train(config, tmp_path)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"model": {"name": "lenet6"}}, ConfigError, "unknown model 'lenet6': did you mean 'lenet5'"),
        ({"model": {"name": "lenet5", "clases": 3}}, ConfigError, "no argument 'clases'"),
        ({"model": {"name": "lenet5", "num_classes": 3}}, ConfigError, "num_classes=3, but .* has 10 classes"),
        ({"model": {"name": "lenet5_paper"}}, ShapeError, r"images: expected shape \(batch, 32, 32, 1\), got \(1, 28,"),
        ({"model": {"name": "mcculloch_pitts"}}, (ConfigError, ShapeError), "mcculloch_pitts|inputs"),
        ({"objective": {"name": "clasification"}}, ConfigError, "did you mean 'classification'"),
        ({"objective": {"name": "classification", "smoothing": 1.0}}, ConfigError, "did you mean 'label_smoothing'"),
        ({"augment": {"random_flop": {}}}, ConfigError, "did you mean 'random_flip'"),
        ({"keep": {"best": "test/acuracy"}}, ConfigError, "did you mean 'test/accuracy'.*validation_size"),
        ({"mesh": {"data": 3}}, ConfigError, "asks for 3 devices"),
        ({"sinks": ("tensorbord",)}, ConfigError, "did you mean 'tensorboard'"),
        ({"optimiser": {}}, ConfigError, "no key 'optimiser': did you mean 'optimizer'"),
    ],
)
def test_mistakes_are_said_before_any_work(tiny_config, tmp_path, values, error, message):
    with pytest.raises(error, match=message):
        train(tiny_config(**values), tmp_path / "run")
    assert not list(tmp_path.rglob("checkpoints/*"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "fashion_mnist", "path": "/nowhere"}, "/nowhere.*dataset-fashion-mnist"),
        ({"name": "fashon_mnist"}, "did you mean 'fashion_mnist'"),
        ({"name": "fashion_mnist_embedded", "pth": "x"}, "'pth'"),
    ],
)
def test_missing_data_says_how_to_get_it(tiny_config, tmp_path, data, message):
    with pytest.raises((DataError, ConfigError), match=message):
        train(tiny_config(data=data | {"batch_size": 8}), tmp_path)


def test_a_truncated_idx_file_is_named(tiny_config, tmp_path):
    for name, header, size in (("train-images-idx3", (2051, 4, 28, 28), 3000), ("train-labels-idx1", (2049, 4), 4)):
        (tmp_path / f"{name}-ubyte").write_bytes(np.array(header, ">i4").tobytes() + bytes(size))
    config = tiny_config(data={"name": "mnist", "path": str(tmp_path), "batch_size": 2})
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte: expected 3,152 bytes .*, found 3,016 bytes"):
        train(config, tmp_path / "run")


def test_a_run_that_is_asked_to_leave_saves_and_goes_on_bitwise(tiny_config, tmp_path, monkeypatch):
    config = tiny_config(steps=8, every={"log": 8, "evaluate": 8, "checkpoint": 8})
    whole = train(config, tmp_path / "whole")

    class Meter(loop.Meter):
        def add(self, step, metrics):
            super().add(step, metrics)
            if step == 3:
                signal.raise_signal(signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(loop, "Meter", Meter)
    with pytest.raises(Preempted, match="SIGTERM: saved step 3 in") as raised:
        train(config, tmp_path / "left")
    monkeypatch.setattr(loop, "Meter", Meter.__base__)
    assert raised.value.exit_code == 75
    assert signal.getsignal(signal.SIGTERM) is handler
    assert saved_steps(tmp_path / "left") == [3]
    assert_same_state(whole.state, train(config, tmp_path / "left").state)


def damage(workdir: Path, step: int, name: str) -> Path:
    """Cuts a file of a checkpoint in half: the largest one whose path matches."""
    path = max((workdir / "checkpoints" / str(step)).glob(name), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


# Of several reads that fail at once orbax reports one; asyncio mentions the others when it collects them.
leftovers = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@leftovers
@pytest.mark.parametrize("name", ["state/d/*", "state/_METADATA", "_CHECKPOINT_METADATA", "state/manifest.ocdbt"])
def test_a_checkpoint_cut_short_is_set_aside_and_the_one_before_is_used(tiny_config, tmp_path, capsys, name):
    config = tiny_config(steps=6)
    whole = train(config, tmp_path)
    cut = damage(tmp_path, 6, name)
    left = cut.read_bytes()
    again = train(config, tmp_path, quiet=False)
    gc.collect()
    assert_same_state(whole.state, again.state)
    printed = capsys.readouterr().out
    assert "checkpoint of step 6 is damaged" in printed
    assert "going on from step 4" in printed
    assert (tmp_path / "damaged" / cut.relative_to(tmp_path / "checkpoints")).read_bytes() == left


@leftovers
def test_a_flipped_bit_is_noticed_wherever_it_is(tiny_config, tmp_path):
    """In data of any file: the leaf or the record is named, or orbax refuses the file; no wrong number comes back."""
    config = tiny_config(steps=2, every={"log": 2, "evaluate": 2, "checkpoint": 1}, model={"name": "mlp_tiny"})
    whole = train(config, tmp_path / "run").state
    x, rng = experiment.make(config), np.random.default_rng()
    files = [path for path in (tmp_path / "run" / "checkpoints" / "2").rglob("*") if path.is_file()]
    said = []
    for file in files:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        path = tmp_path / "copy" / file.relative_to(tmp_path / "run")
        raw = bytearray(path.read_bytes())
        if not raw:
            continue
        raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        path.write_bytes(raw)
        *_, line = check_run(tmp_path / "copy")
        checkpoints = Checkpoints(tmp_path / "copy")
        restored = checkpoints.restore(x.abstract)
        checkpoints.close()
        assert line.name == "checkpoints/2"
        assert line.ok == (int(restored.state.step) == 2), line
        if line.ok:
            assert_same_state(restored.state, whole)
        else:
            said += restored.warnings
    gc.collect()
    assert any("not what was saved: " in line for line in said), said


@leftovers
def test_no_checkpoint_left_is_an_error_not_a_fresh_start(tiny_config, tmp_path):
    train(tiny_config(steps=2), tmp_path)
    damage(tmp_path, 2, "state/d/*")
    with pytest.raises(CheckpointError, match="no checkpoint can be read.*step 2 is damaged"):
        train(tiny_config(steps=2), tmp_path)
    gc.collect()


def test_a_checkpoint_of_another_model_is_refused_by_leaf(tiny_config, tmp_path):
    train(tiny_config(steps=2), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"model": {"name": "lenet5", "num_classes": 10}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"doesn't fit the model.*conv1/.* is float32\[.*the model has"):
        deepmodels.evaluate(tmp_path)


# those that compile longest, where another experiment goes the same way; `pytest -m slow` runs them
LONG = (
    *("inception_v3_imagenet", "googlenet_imagenet", "resnet50_imagenet", "vgg16_imagenet", "resnet20_fashion"),
    *("unet_shapes", "translation_fashion", "finetune_clipart", "minilm_sentiment", "gpt_python", "gpt_in_context"),
    *("ddpm_fashion", "smollm2_lora", "decoder_state_of_the_union"),
    *("dalle_emoji", "mae_fashion", "style_clipart", "dcgan_fashion", "super_resolution_clipart"),
    "translation_english_spanish",
)


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=[pytest.mark.slow] * (file.stem in LONG), id=file.stem) for file in EXPERIMENTS],
)
def test_an_experiments_smoke_trains_two_steps_and_resumes_bitwise(file, tmp_path):
    config = configs.load(f"{file}:smoke")
    assert config.steps == 2
    with config.unlocked():
        if "schedule" in config.optimizer:
            config.optimizer.schedule.steps = 2
    first = config.copy_and_resolve_references()
    with first.unlocked():
        first.steps = 1
    whole = train(config, tmp_path / "whole")
    train(first, tmp_path / "parts")
    assert_same_state(whole.state, train(config, tmp_path / "parts").state)
