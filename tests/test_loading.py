"""Models with weights from files, and the command that converts them."""

import json

import jax
import numpy as np
import pytest

import deepmodels
from deepmodels import cli, trees
from deepmodels.errors import ConfigError, WeightsError
from deepmodels.weights import files, resnet
from deepmodels.weights.convert import from_ours


@pytest.fixture(scope="module")
def variables():
    """Random variables of resnet18 with five classes."""
    rng = np.random.default_rng(0)
    model = deepmodels.create("resnet18", num_classes=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


@pytest.fixture(scope="module")
def path(variables, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    files.write(path, from_ours(variables, resnet.TORCHVISION))
    return path


def test_load_gives_a_model_and_its_variables(path, variables):
    model, found = deepmodels.load("resnet18", path, num_classes=5)
    assert model == deepmodels.create("resnet18", num_classes=5)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_another_number_of_classes(path, variables):
    with pytest.raises(
        WeightsError, match=r"fc\.weight is float32\[5, 512\].*params/head/kernel needs float32\[512, 7\]"
    ):
        deepmodels.load("resnet18", path, num_classes=7)
    _, found = deepmodels.load("resnet18", path, num_classes=7, fresh="head/.*")
    assert found["params"]["head"]["kernel"].shape == (512, 7)
    np.testing.assert_array_equal(found["params"]["stem_conv"]["kernel"], variables["params"]["stem_conv"]["kernel"])


def test_another_model(path):
    with pytest.raises(WeightsError, match="don't fit the model"):
        deepmodels.load("resnet34", path, num_classes=5)
    with pytest.raises(ConfigError, match="no table of torchvision's names for 'mlp'"):
        deepmodels.load("mlp", path, source="torchvision")
    with pytest.raises(ConfigError, match="unknown model 'resnet8'"):
        deepmodels.load("resnet8", path)


def test_half_precision_is_cast_only_when_asked(path, tmp_path, variables):
    half = {name: array.astype(np.float16) for name, array in files.read(path).items()}
    files.write(tmp_path / "half.safetensors", half)
    with pytest.raises(WeightsError, match="cast=True"):
        deepmodels.load("resnet18", tmp_path / "half.safetensors", num_classes=5)
    _, found = deepmodels.load("resnet18", tmp_path / "half.safetensors", num_classes=5, cast=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), found, variables)


def run(capsys, *arguments):
    cli.main([*map(str, arguments)])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.npz", "folder"])
def test_the_command_converts_there_and_back(path, tmp_path, variables, capsys, name):
    options = ["--model", "resnet18", "--num-classes", "5"]
    said = run(capsys, "convert", path, tmp_path / name, *options)
    assert f"{len(jax.tree.leaves(variables))} tensors, {trees.count(variables):,} numbers, sha256 " in said
    ours = {key: np.asarray(leaf) for key, leaf in trees.flatten(variables).items()}
    jax.tree.map(np.testing.assert_array_equal, files.read(tmp_path / name), ours)

    said = run(capsys, "convert", tmp_path / name, tmp_path / "b.safetensors", *options, "--json")
    jax.tree.map(np.testing.assert_array_equal, files.read(tmp_path / "b.safetensors"), files.read(path))
    assert json.loads(said)["sha256"] == files.sha256(tmp_path / "b.safetensors")


def test_our_own_names_in_safetensors(path, tmp_path, variables):
    deepmodels.convert("resnet18", path, tmp_path / "a.safetensors", source="deepmodels", num_classes=5)
    assert files.read(tmp_path / "a.safetensors").keys() == trees.flatten(variables).keys()
    _, found = deepmodels.load("resnet18", tmp_path / "a.safetensors", num_classes=5)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "resnet18"], "error: the weights don't fit the model"),
        (["--model", "resnet1"], "error: unknown model 'resnet1'"),
        (["--model", "resnet18", "--source", "timmy"], "error: unknown source of weights 'timmy'"),
    ],
)
def test_the_command_says_what_is_wrong(capsys, path, tmp_path, options, said):
    with pytest.raises(SystemExit, match="1"):
        cli.main(["convert", str(path), str(tmp_path / "x.safetensors"), *options])
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_trunk_goes_on_under_another_head(tmp_path):
    """What was pre-trained on words is read for classes: its own head is left out, all of the trunk must be there."""
    names = dict(vocab_size=12, hidden_size=8, mlp_size=8)
    model = deepmodels.create("bert_micro", head="masked_lm", **names)
    variables = jax.jit(model.init)(jax.random.key(1), np.zeros((1, 4), np.int32))
    files.write(tmp_path / "words.npz", trees.flatten(jax.device_get(variables)))
    classifier, loaded = deepmodels.load("bert_micro", tmp_path / "words.npz", fresh="pooler/.*|head/.*", **names)
    before, after = (trees.flatten(tree["params"]) for tree in (variables, loaded))
    shared = before.keys() & after.keys()
    assert {name.partition("/")[0] for name in after.keys() - shared} == {"pooler", "head"}
    for name in shared:
        np.testing.assert_array_equal(after[name], before[name])
    assert classifier.apply(loaded, np.zeros((1, 4), np.int32)).shape == (1, 8)
    with pytest.raises(WeightsError, match="params/pooler/kernel"):
        deepmodels.load("bert_micro", tmp_path / "words.npz", fresh="head/.*", **names)
