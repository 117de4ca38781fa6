import jax
import numpy as np
import oracles
import pytest
from comparison import check_gradient, check_logits, check_training, check_written_back, converted, enliven, pixels

from deepmodels.models import create
from deepmodels.models.densenet import DenseNet
from deepmodels.weights import densenet
from deepmodels.weights.convert import from_ours, to_ours


@pytest.mark.parity
@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_densenet121_infers_as_theirs(source):
    theirs, rules = enliven(getattr(oracles, source)("densenet121")), getattr(densenet, source.upper())
    model = create("densenet121")
    images = pixels(2, 64)
    variables = converted(model, theirs, rules, images)
    check_written_back(variables, theirs, rules)
    check_logits(model, variables, theirs, images)


@pytest.mark.parity
def test_trains_as_torchvisions():
    arguments = dict(growth_rate=4, block_config=(2, 3, 2, 2), num_init_features=8, num_classes=5)
    theirs = enliven(oracles.import_torchvision().models.DenseNet(**arguments))
    model = DenseNet((2, 3, 2, 2), growth_rate=4, stem_features=8, num_classes=5)
    rules, images = densenet.TORCHVISION, pixels(2, 64)
    variables = converted(model, theirs, rules, images)
    check_gradient(model, variables, theirs, images)
    check_training(model, variables, theirs, images, rules)


def test_files_older_than_the_names_load():
    model = DenseNet((2, 1), growth_rate=2, stem_features=4, num_classes=3)
    like = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), like)
    new = from_ours(variables, densenet.TORCHVISION)
    assert "features.denseblock1.denselayer2.norm1.running_mean" in new
    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2") if "denselayer" in name else name: array
        for name, array in new.items()
    }
    assert "features.denseblock1.denselayer2.norm.1.running_mean" in old
    jax.tree.map(np.testing.assert_array_equal, to_ours(old, densenet.TORCHVISION, like), variables)
