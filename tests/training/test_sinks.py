"""Metric files through growth, resumption and torn writes; the viewers' sinks against what they were given."""

import csv
import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from deepmodels.errors import ConfigError, DataError
from deepmodels.training.sinks import Csv, JsonLines, create_sinks, read_json_lines


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_json_lines_are_on_disk_at_once_with_the_step_first(tmp_path):
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.scalars(3, {"train/loss": np.float32(0.5)})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "train/loss": 0.5}\n'
    sink.images(3, "samples", np.zeros((2, 2, 3), np.uint8))
    sink.close()
    assert read_json_lines(tmp_path / "metrics.jsonl") == [{"step": 3, "train/loss": 0.5}]


def test_what_is_not_finite_is_null_in_json_and_named_in_csv(tmp_path):
    for sink in create_sinks(tmp_path):
        sink.scalars(1, {"loss": float("nan"), "norm": float("inf")})
        sink.close()

    def refuse(constant):
        raise AssertionError(f"{constant} isn't JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=refuse) == {"step": 1, "loss": None, "norm": None}
    assert read_csv(tmp_path / "metrics.csv") == [{"step": "1", "loss": "nan", "norm": "inf"}]


def test_a_csv_grows_columns_and_keeps_its_rows(tmp_path):
    sink = Csv(tmp_path / "metrics.csv")
    sink.scalars(1, {"loss": 2.0})
    sink.scalars(2, {"loss": 1.5, "accuracy": 0.25})
    sink.scalars(3, {"accuracy": 0.5})
    sink.close()
    assert read_csv(tmp_path / "metrics.csv") == [
        {"step": "1", "loss": "2.0", "accuracy": ""},
        {"step": "2", "loss": "1.5", "accuracy": "0.25"},
        {"step": "3", "loss": "", "accuracy": "0.5"},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def write(workdir, steps, **options):
    for sink in create_sinks(workdir, **options):
        for step in steps:
            sink.scalars(step, {"loss": 1 / step})
        sink.close()


def test_resuming_cuts_back_to_the_restored_step_and_goes_on(tmp_path):
    write(tmp_path, [1, 2, 3, 4])
    write(tmp_path, [3, 4], resume_step=2)
    whole = tmp_path / "whole"
    write(whole, [1, 2, 3, 4])
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (tmp_path / name).read_text() == (whole / name).read_text()


def test_a_fresh_start_empties_the_files(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [5])
    assert [line["step"] for line in read_json_lines(tmp_path / "metrics.jsonl")] == [5]
    assert [row["step"] for row in read_csv(tmp_path / "metrics.csv")] == ["5"]


def test_resuming_without_files_starts_them(tmp_path):
    write(tmp_path, [8], resume_step=7)
    assert read_json_lines(tmp_path / "metrics.jsonl") == [{"step": 8, "loss": 0.125}]


@pytest.mark.parametrize("lost", range(1, 9))
def test_a_torn_last_line_is_dropped(tmp_path, lost):
    write(tmp_path, [1, 2, 30])
    for name in ("metrics.jsonl", "metrics.csv"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-lost])
    assert [line["step"] for line in read_json_lines(tmp_path / "metrics.jsonl")] == [1, 2]
    write(tmp_path, [31], resume_step=30)
    assert [line["step"] for line in read_json_lines(tmp_path / "metrics.jsonl")] == [1, 2, 31]
    assert [row["step"] for row in read_csv(tmp_path / "metrics.csv")] == ["1", "2", "31"]


def test_damage_elsewhere_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        JsonLines(path, resume_step=3)
    path = tmp_path / "metrics.csv"
    path.write_text("loss,step\n1,2\n")
    with pytest.raises(DataError, match="first column is \"step\", got 'loss'"):
        Csv(path, resume_step=3)
    path.write_text("step,loss\nxx,2\n")
    with pytest.raises(DataError, match=r"metrics\.csv, line 2"):
        Csv(path, resume_step=3)


def test_an_unknown_sink_names_the_nearest_and_touches_nothing(tmp_path):
    with pytest.raises(ConfigError, match="unknown sink 'tensorbord': did you mean 'tensorboard'"):
        create_sinks(tmp_path / "run", ["tensorbord"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'pip install "deepmodels-jax\[{name}\]"'):
        create_sinks(tmp_path, [name])


@pytest.mark.filterwarnings("ignore::DeprecationWarning:google")
def test_tensorboard_writes_scalars_and_images(tmp_path):
    pytest.importorskip("tensorboardX")
    sink = create_sinks(tmp_path, ["tensorboard"], resume_step=3)[-1]
    sink.scalars(4, {"train/loss": 0.5})
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "image.png")
    sink.images(4, "samples", tmp_path / "image.png")
    sink.images(4, "arrays", np.zeros((4, 4, 1), np.uint8))
    sink.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    data = events.read_bytes()
    for name in (b"train/loss", b"samples", b"arrays"):
        assert name in data
    assert data.count(b"\x89PNG") == 2


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for wandb that keeps what it is given."""
    calls = types.SimpleNamespace(init=[], log=[], finished=0)

    def finish():
        calls.finished += 1

    def init(**options):
        calls.init.append(options)
        return types.SimpleNamespace(log=lambda values, step: calls.log.append((step, values)), finish=finish)

    module = types.ModuleType("wandb")
    module.init, module.Image = init, lambda pixels: ("image", pixels.shape)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")
    monkeypatch.setenv("HOME", "/nonexistent")
    return calls


def test_wandb_is_offline_without_a_key_and_takes_what_it_is_given(tmp_path, wandb):
    sink = create_sinks(tmp_path, ["wandb"])[-1]
    sink.scalars(4, {"train/loss": 0.5})
    sink.images(4, "samples", np.zeros((4, 5, 3), np.uint8))
    sink.close()
    assert wandb.init[0]["mode"] == "offline"
    assert wandb.log == [(4, {"train/loss": 0.5}), (4, {"samples": ("image", (4, 5, 3))})]
    assert wandb.finished == 1


def test_wandb_carries_on_the_run_of_the_folder_only_when_resuming(tmp_path, wandb, monkeypatch):
    create_sinks(tmp_path, ["wandb"])
    create_sinks(tmp_path, ["wandb"], resume_step=3)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    create_sinks(tmp_path, ["wandb"])
    first, resumed, fresh = (options["id"] for options in wandb.init)
    assert first == resumed != fresh
    assert [options["mode"] for options in wandb.init] == ["offline", "offline", "online"]
