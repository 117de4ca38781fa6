"""DeepLabV3 against torchvision's, by random weights that go there and back.

Measured with torch 2.13.0 and torchvision 0.28.0, as shares of the largest value: logits 1.8e-6 in float32 (the same
for deeplabv3_resnet101), 4.4e-15 in float64, their gradient by the images 3.6e-15, training outputs 4.4e-13.
"""

import pytest
from comparison import check_gradient, check_logits, check_training, check_written_back, converted, pixels
from test_fcn_parity import torchvision

from deepmodels.models import create
from deepmodels.weights import table

pytestmark = pytest.mark.parity

RULES = table("torchvision", "deeplabv3_resnet50", "deeplab")


def test_deeplab_with_its_auxiliary_head():
    """At 64 pixels the maps are 8x8 and most taps of the pyramid lie beyond; at 128 the rate of 12 reaches inside."""
    module = torchvision("deeplabv3_resnet50", aux_loss=True)
    model = create("deeplabv3_resnet50", num_classes=7, aux_head=True, dropout_rate=0.0, aux_dropout_rate=0.0)
    images = pixels(2, 64)
    variables = converted(model, module, RULES, images)
    check_logits(model, variables, module, images)
    check_logits(model, variables, module, pixels(1, 128))
    check_written_back(variables, module, RULES)
    small = pixels(2, 36)
    check_gradient(model, variables, module, small)
    check_training(model, variables, module, small, RULES, lambda theirs: (theirs["out"], (theirs["aux"],)))
