"""Loading, overriding, completing and comparing configs."""

import pytest

from deepmodels import config as configs
from deepmodels.errors import ConfigError

FILE = """
from ml_collections import ConfigDict
def get_config(size="full"):
    steps = {"full": 100, "smoke": 2}[size]
    return ConfigDict(dict(
        steps=steps, model=dict(name="mlp"), data=dict(name="mnist", batch_size=8),
        optimizer=dict(name="sgd", learning_rate=0.1),
    ))
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text(FILE)
    return str(path)


def test_sizes_and_overrides(file):
    config = configs.load(f"{file}:smoke", {"optimizer.learning_rate": "1", "optimizer.momentum": "0.8", "seed": "3"})
    assert config.steps == 2
    assert config.optimizer.learning_rate == 1.0
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.optimizer.momentum == 0.8
    assert config.seed == 3
    assert config.every.log == configs.DEFAULTS["every"]["log"]
    assert configs.load(file).steps == 100


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optimzer.learning_rate": "1"}, "'optimzer'.*did you mean 'optimizer'"),
        ({"step": "1"}, "'step'.*did you mean 'steps'"),
        ({"every.eval": "1"}, "'eval'.*did you mean 'evaluate'"),
        ({"steps": "many"}, "config.steps is a int"),
        ({"steps": "0"}, "config.steps is a positive whole number"),
        ({"model": "mlp"}, "is a section"),
        ({"steps.x": "1"}, "config.steps is no section"),
        ({"compile": "gpu"}, "'jit' or 'pmap'"),
        ({"early_stopping": "{'metrik': 'x'}"}, "'metrik'.*did you mean 'metric'"),
        ({"keep.mode": "large"}, "config.keep.mode is 'min' or 'max'"),
    ],
)
def test_bad_overrides_name_what_would_be_right(file, overrides, message):
    with pytest.raises(ConfigError, match=message):
        configs.load(file, overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FILE.replace("steps=steps,", "step=steps,"), "no key 'step': did you mean 'steps'"),
        (FILE.replace("steps=steps,", ""), "needs the key 'steps'"),
        (FILE.replace('name="mlp"', "size=3"), "config.model needs a 'name'"),
        ("x = 1", "doesn't define get_config"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "experiment.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        configs.load(str(path))


def test_missing_file_and_size_name_the_nearest(file):
    with pytest.raises(ConfigError, match=r"doesn't exist: did you mean '.*experiment\.py'"):
        configs.load(file.replace("experiment", "experimnt"))
    with pytest.raises(ConfigError, match="no size 'tiny'"):
        configs.load(f"{file}:tiny")


def test_a_config_is_locked(file):
    with pytest.raises(AttributeError):
        configs.load(file).learning_rate = 1


def test_differences_are_those_that_change_training(file):
    config = configs.load(file)
    free = configs.load(file, {"steps": "7", "mesh.fsdp": "2", "every.log": "1", "keep.last": "9"})
    assert configs.differences(config, free) == []
    other = configs.load(file, {"seed": "1", "optimizer.momentum": "0.5"})
    assert configs.differences(config, other) == ["config.optimizer.momentum: 'absent' -> 0.5", "config.seed: 0 -> 1"]


def test_the_length_of_a_cosine_counts(file):
    cosine = {"optimizer.schedule": "{'name': 'cosine'}"}
    lines = configs.differences(configs.load(file, cosine), configs.load(file, cosine | {"steps": "7"}))
    assert lines == ["config.optimizer.schedule.steps: 100 -> 7"]
