"""Summaries of small models by hand, of a very large one in seconds, and of rows of the table."""

import io
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from rich.console import Console

from deepmodels import models
from deepmodels.analysis import info, summary, table
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models.variant import Variant, images


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm1")(x))
        x = nn.Dropout(0.5, deterministic=not train, name="dropout")(x)
        return nn.Dense(10, name="head")(x.mean((1, 2)))


class Layer(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x, _):
        y = nn.gelu(nn.Dense(4 * self.size, use_bias=False, name="up")(x))
        q = nn.Dense(4 * self.size, use_bias=False, name="attention")(x)[..., : self.size]
        return x + q + nn.Dense(self.size, use_bias=False, name="down")(y), None


class Stack(nn.Module):
    size: int
    depth: int

    @nn.compact
    def __call__(self, tokens, train=False):
        x = nn.Embed(7, self.size, name="embed")(tokens)
        scan = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
        return scan(self.size, name="layers")(x, None)[0]


class TwoInputs(nn.Module):
    """Binds its parts in setup, and calls one of them twice, once by another method."""

    def setup(self):
        self.embed = nn.Embed(11, 4)
        self.project = nn.Dense(4)
        self.gain = self.param("gain", nn.initializers.ones, ())

    def encode(self, x):
        return self.project(x)

    def __call__(self, left, right, train=False):
        y = self.embed(right) + self.encode(left) + self.project(left)
        return self.embed.attend(y) * self.gain


def by_path(found):
    return {layer.path: layer for layer in found.layers}


def test_a_conv_net_by_hand():
    found = summary(ConvNet(), (2, 8, 8, 3))
    layers = by_path(found)
    assert list(layers) == ["", "conv1", "norm1", "dropout", "head"]
    assert layers["conv1"].inputs == [(2, 8, 8, 3)]
    assert layers["conv1"].outputs == [(2, 8, 8, 4)]
    assert (layers["conv1"].cls, layers["conv1"].parameters) == ("Conv", 3 * 3 * 3 * 4 + 4)
    assert layers["conv1"].flops == 2 * (2 * 8 * 8 * 4) * 27
    assert layers["norm1"].parameters == 8
    assert (layers["head"].parameters, layers["head"].flops) == (50, 2 * 2 * 4 * 10)
    assert found.parameters == 112 + 8 + 50
    assert found.variables == 8
    assert found.bytes == 4 * (170 + 8)
    assert found.flops == sum(layer.flops for layer in found.layers)
    assert found.flops_per_example * 2 == found.flops


def test_training_mode_needs_no_keys_and_changes_no_counts():
    assert summary(ConvNet(), (2, 8, 8, 3), train=True).to_dict() == summary(ConvNet(), (2, 8, 8, 3)).to_dict()


def test_a_scanned_stack_shows_once_with_all_of_its_parameters():
    found = summary(Stack(size=4, depth=5), np.zeros((2, 3), np.int32))
    layers = by_path(found)
    assert list(layers) == ["", "embed", "layers", "layers/up", "layers/attention", "layers/down"]
    assert layers["layers/up"].parameters == 5 * 4 * 16
    assert layers["layers/up"].flops == 5 * 2 * (2 * 3) * 4 * 16
    assert layers["layers/up"].outputs == [(2, 3, 16)]


def test_two_inputs_and_a_module_called_twice():
    found = summary(TwoInputs(), (5, 6), jax.ShapeDtypeStruct((5,), jnp.int32))
    layers = by_path(found)
    assert layers[""].inputs == [(5, 6), (5,)]
    assert layers[""].parameters == 1
    assert layers["project"].flops == 2 * (2 * 5 * 6 * 4)
    assert layers["embed"].flops == 2 * 5 * 4 * 11
    assert layers["embed"].outputs == [(5, 4)]
    assert sum(layer.parameters for layer in found.layers) == found.parameters == 1 + 44 + 28


def test_175_billion_parameters_take_seconds_and_no_memory():
    before = len(jax.live_arrays())
    started = time.monotonic()
    found = summary(Stack(size=12_288, depth=96), jax.ShapeDtypeStruct((1, 2048), jnp.int32))
    assert time.monotonic() - started < 10
    assert found.parameters == 96 * 12 * 12_288**2 + 7 * 12_288
    assert found.flops == 2 * 2048 * 96 * 12 * 12_288**2
    assert len(jax.live_arrays()) == before


def test_it_prints_as_text_rich_and_html():
    found = summary(ConvNet(), (2, 8, 8, 3))
    text = str(found)
    assert "conv1" in text
    assert "2x8x8x4" in text
    assert "170 parameters, 8 untrained variables, 712 B" in text
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(found)
    assert "conv1" in console.export_text()
    html = found._repr_html_()
    assert html.count("<tr>") == 1 + len(found.layers)
    assert ">112</td>" in html


def test_depth_folds_what_lies_deeper_into_its_ancestor():
    x = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    text = str(summary(Stack(size=4, depth=5), x, depth=1))
    assert "up" not in text
    assert f"{5 * 12 * 16:,}" in text
    assert summary(Stack(size=4, depth=5), x, depth=1).to_dict() == summary(Stack(size=4, depth=5), x).to_dict()


def test_it_is_plain_data():
    found = summary(ConvNet(), (2, 8, 8, 3))
    assert json.loads(json.dumps(found.to_dict()))["layers"][1]["outputs"] == [[2, 8, 8, 4]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"inputs: expected at least one"),
        (("images",), r"inputs\[0\]: expected a shape such as"),
        (((2, 8, 8, 3), 1.5), r"inputs\[1\]: expected a shape"),
        (((0, 8, 8, 3),), r"inputs\[0\]: expected the batch axis"),
        (((),), r"inputs\[0\]: expected the batch axis"),
    ],
)
def test_bad_inputs_are_named(inputs, message):
    with pytest.raises(ShapeError, match=message):
        summary(ConvNet(), *inputs)


def test_a_negative_depth_is_refused():
    with pytest.raises(ConfigError, match="depth: expected"):
        summary(ConvNet(), (2, 8, 8, 3), depth=-1)


@pytest.fixture
def conv_net_in_the_table(monkeypatch):
    row = Variant(ConvNet, {}, images(8, 8, 3), 171, 1998, "a paper")  # one more than the module has
    monkeypatch.setitem(models.MODELS, "zz_conv_net", row)


@pytest.mark.usefixtures("conv_net_in_the_table")
def test_info_counts_the_module_beside_what_is_published():
    found = info("zz_conv_net")
    assert found["parameters"] == 170
    assert found["published_parameters"] == 171
    assert found["flops"] == 2 * (8 * 8 * 4 * 27 + 40)
    assert found["input"] == {"images": {"shape": [8, 8, 3], "dtype": "float32"}}
    assert (found["name"], found["family"], found["year"]) == ("zz_conv_net", "test_summary", 1998)
    assert len(json.loads(json.dumps(found))["layers"]) == 5


def test_info_names_the_nearest_model():
    with pytest.raises(ConfigError, match=r"unknown model 'resnet5'.*'resnet50'"):
        info("resnet5")


@pytest.mark.usefixtures("conv_net_in_the_table")
def test_the_table_lists_names_by_pattern_without_tracing(monkeypatch):
    monkeypatch.setattr(jax, "eval_shape", None)
    assert [row["name"] for row in table("zz_*")] == ["zz_conv_net"]
    assert table("zz_*")[0]["parameters"] == 171
    assert len(table()) == len(models.MODELS)
    assert table("nothing*") == []
