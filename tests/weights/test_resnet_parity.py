"""Residual networks against torchvision: the same weights give the same outputs, gradients and running statistics."""

from pathlib import Path

import jax
import numpy as np
import oracles
import pytest

import deepmodels
from deepmodels import trees
from deepmodels.weights import resnet
from deepmodels.weights.convert import to_ours

pytestmark = pytest.mark.parity


def images():
    return np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)


def loaded(reference, path: Path, name: str):
    """Our model with the reference's weights, by way of torch's own file format."""
    torch = pytest.importorskip("torch")
    torch.save(reference.state_dict(), path)
    return deepmodels.load(name, path, num_classes=5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_same_logits(tmp_path, name):
    reference = oracles.torchvision(name, num_classes=5)
    model, variables = loaded(reference, tmp_path / "model.pth", name)
    expected = oracles.evaluate(reference, images())
    assert np.abs(expected).max() > 0.1  # not all close to nothing
    np.testing.assert_allclose(jax.jit(model.apply)(variables, images()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_same_gradients_and_statistics(tmp_path, name, float64):
    reference = oracles.torchvision(name, num_classes=5)
    model, variables = loaded(reference, tmp_path / "model.pth", name)
    variables, inputs = jax.tree.map(lambda leaf: leaf.astype(np.float64), (variables, images()))
    cotangent = np.random.default_rng(1).normal(size=(2, 5))

    @jax.jit
    def ours(variables, images):
        _, pull = jax.vjp(lambda images: model.apply(variables, images), images)
        return pull(cotangent)[0], model.apply(variables, images, train=True, mutable=["batch_stats"])

    gradient, (logits, updated) = ours(variables, inputs)
    np.testing.assert_allclose(gradient, oracles.input_gradient(reference, inputs, cotangent), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(logits, oracles.train(reference, inputs), rtol=1e-6, atol=1e-9)
    expected = trees.flatten(to_ours(oracles.state_dict(reference), resnet.TORCHVISION, variables)["batch_stats"])
    for leaf, value in trees.flatten(updated["batch_stats"]).items():
        np.testing.assert_allclose(value, expected[leaf], rtol=1e-6, atol=1e-9, err_msg=leaf)
        assert not np.allclose(value, trees.flatten(variables["batch_stats"])[leaf])  # it did move


def test_running_statistics_are_taken_as_they_are_stored(tmp_path):
    """torch's average is of unbiased variances; in evaluation both libraries divide by what is stored."""
    reference = oracles.torchvision("resnet18", num_classes=5)
    _, variables = loaded(reference, tmp_path / "model.pth", "resnet18")
    np.testing.assert_array_equal(
        variables["batch_stats"]["stage3_block1"]["norm2"]["var"], reference.layer4[1].bn2.running_var.numpy()
    )


def test_what_we_write_torchvision_loads_strictly(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    source, other = (oracles.torchvision("resnet18", seed=seed, num_classes=5) for seed in (0, 1))
    pytest.importorskip("torch").save(source.state_dict(), tmp_path / "a.pth")
    deepmodels.convert("resnet18", tmp_path / "a.pth", tmp_path / "b.safetensors", num_classes=5)
    other.load_state_dict(library.load_file(tmp_path / "b.safetensors"), strict=True)
    for key, array in oracles.state_dict(source).items():
        np.testing.assert_array_equal(oracles.state_dict(other)[key], array, err_msg=key)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_timm_has_the_same_names(name):
    names = [{key: array.shape for key, array in oracles.state_dict(library(name)).items()} for library in (
        oracles.torchvision, oracles.timm
    )]  # fmt: skip
    assert names[0] == names[1]
