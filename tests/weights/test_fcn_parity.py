"""FCN against torchvision's, by random weights that go there and back.

Measured with torch 2.13.0 and torchvision 0.28.0, as shares of the largest value: logits 1.5e-6 in float32 (2.0e-6 for
fcn_resnet101), 6.8e-15 in float64, their gradient by the images 4.1e-15, training outputs 1.8e-13.
"""

import oracles
import pytest
from comparison import check_gradient, check_logits, check_training, check_written_back, converted, enliven, pixels

from deepmodels.models import create
from deepmodels.weights import table

pytestmark = pytest.mark.parity

RULES = table("torchvision", "fcn_resnet50", "fcn")


def torchvision(name, **arguments):
    """Their model with its channels last and, in evaluation, the logits of its first head alone, as ours has them."""
    library = oracles.import_torchvision().models.segmentation
    module = oracles.torchvision(name, library=library, weights_backbone=None, num_classes=7, **arguments)

    def as_ours(module, _, outputs):
        outputs = {name: logits.permute(0, 2, 3, 1) for name, logits in outputs.items()}
        return outputs if module.training else outputs["out"]

    module.register_forward_hook(as_ours)
    return enliven(module)


def test_fcn_with_its_auxiliary_head():
    module = torchvision("fcn_resnet50", aux_loss=True)
    model = create("fcn_resnet50", num_classes=7, aux_head=True, dropout_rate=0.0, aux_dropout_rate=0.0)
    images = pixels(2, 64)
    variables = converted(model, module, RULES, images)
    check_logits(model, variables, module, images)
    check_written_back(variables, module, RULES)
    small = pixels(2, 36)  # no multiple of the stride: the maps' rounding and the way back to 36 pixels count
    check_gradient(model, variables, module, small)
    check_training(model, variables, module, small, RULES, lambda theirs: (theirs["out"], (theirs["aux"],)))


def test_auxiliary_weights_are_left_aside_by_a_model_without_the_head():
    module, images = torchvision("fcn_resnet50", aux_loss=True), pixels(1, 64)
    model = create("fcn_resnet50", num_classes=7)
    variables = converted(model, module, RULES, images)
    assert "auxiliary" not in variables["params"]
    check_logits(model, variables, module, images)
