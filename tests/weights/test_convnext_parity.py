import oracles
import pytest
from comparison import check_gradient, check_logits, check_training, check_written_back, converted, enliven, pixels

from deepmodels.models import create
from deepmodels.models.convnext import ConvNeXt
from deepmodels.weights import convnext

pytestmark = pytest.mark.parity


# `enliven` draws the layer scales too: at the 1e-6 they start with, nothing of what a block computes would show


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_convnext_tiny_infers_as_theirs(source):
    theirs, rules = enliven(getattr(oracles, source)("convnext_tiny")), getattr(convnext, source.upper())
    model = create("convnext_tiny", unroll=1)
    images = pixels(2, 64)
    variables = converted(model, theirs, rules, images)
    check_written_back(variables, theirs, rules)
    check_logits(model, variables, theirs, images)


def test_trains_as_torchvisions():
    library = oracles.import_torchvision().models.convnext
    channels, sizes = (8, 12, 16, 20), (1, 2, 3, 1)
    settings = [library.CNBlockConfig(*row) for row in zip(channels, (*channels[1:], None), sizes, strict=True)]
    theirs = enliven(library.ConvNeXt(settings, stochastic_depth_prob=0.0, num_classes=5))
    model = ConvNeXt(sizes, channels, num_classes=5)
    rules, images = convnext.TORCHVISION, pixels(2, 64)
    variables = converted(model, theirs, rules, images)
    check_gradient(model, variables, theirs, images)
    check_training(model, variables, theirs, images, rules)
