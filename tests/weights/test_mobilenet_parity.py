import os
from pathlib import Path

import jax
import numpy as np
import oracles
import pytest
from comparison import check_gradient, check_logits, check_training, check_written_back, converted, enliven, pixels

from deepmodels.models import create
from deepmodels.weights import mobilenet, torch_file
from deepmodels.weights.convert import to_ours

GOLDEN = Path(__file__).parent.parent / "golden" / "mobilenet_v2.npz"


@pytest.mark.parity
@pytest.mark.parametrize(("source", "name"), [("torchvision", "mobilenet_v2"), ("timm", "mobilenetv2_100")])
def test_infers_as_theirs(source, name):
    theirs, rules = enliven(getattr(oracles, source)(name)), getattr(mobilenet, source.upper())
    model = create("mobilenet_v2")
    images = pixels(2, 64)
    variables = converted(model, theirs, rules, images)
    check_written_back(variables, theirs, rules)
    check_logits(model, variables, theirs, images)


@pytest.mark.parity
def test_trains_as_torchvisions():
    theirs = enliven(oracles.torchvision("mobilenet_v2", width_mult=0.25, dropout=0.0, num_classes=5))
    model = create("mobilenet_v2", width_multiplier=0.25, dropout_rate=0.0, num_classes=5)
    rules, images = mobilenet.TORCHVISION, pixels(2, 64)
    variables = converted(model, theirs, rules, images)
    check_gradient(model, variables, theirs, images)
    check_training(model, variables, theirs, images, rules)


def test_imagenet_weights_give_the_golden_logits():
    folder = os.environ.get("DEEPMODELS_TEST_DATA")
    if folder is None:
        pytest.skip("DEEPMODELS_TEST_DATA names no folder to look for torchvision's mobilenet_v2-b0353104.pth in")
    path = next(Path(folder).rglob("mobilenet_v2-b0353104.pth"), None)
    if path is None:
        pytest.skip(f"{folder} holds no mobilenet_v2-b0353104.pth")
    model = create("mobilenet_v2")
    images = np.sin(0.01 * np.arange(3 * 224 * 224)).reshape(1, 3, 224, 224).transpose(0, 2, 3, 1).astype(np.float32)
    like = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = to_ours(torch_file.read(path), mobilenet.TORCHVISION, like)
    logits = jax.jit(model.apply)(variables, images)[0]
    np.testing.assert_allclose(logits, np.load(GOLDEN)["logits"], rtol=0, atol=1e-4)
