from functools import partial

import oracles
import pytest
from comparison import check_gradient, check_logits, check_training, check_written_back, converted, enliven, pixels

from deepmodels.models import MODELS, create
from deepmodels.models.efficientnet import EfficientNet, Stage
from deepmodels.weights import efficientnet

pytestmark = pytest.mark.parity


def test_efficientnet_b0_infers_as_torchvisions():
    theirs, rules = enliven(oracles.torchvision("efficientnet_b0")), efficientnet.TORCHVISION
    model = create("efficientnet_b0")
    images = pixels(2, 64)
    variables = converted(model, theirs, rules, images)
    check_written_back(variables, theirs, rules)
    check_logits(model, variables, theirs, images)


def test_trains_as_torchvisions_with_the_norms_of_b5():
    library = oracles.import_torchvision().models.efficientnet
    rows = [(1, 3, 1, 16, 1), (6, 5, 2, 24, 2), (6, 3, 2, 40, 2), *[(6, 3, 1, 40, 1)] * 4]
    rows = [Stage(*row) for row in rows]  # seven, as the table's: torchvision's names count them
    inputs = [32, *(row.channels for row in rows)]
    settings = [
        library.MBConvConfig(row.expansion, row.window, row.stride, before, row.channels, row.size, width_mult=0.25)
        for row, before in zip(rows, inputs, strict=False)
    ]
    row = MODELS["efficientnet_b5"].arguments
    b5 = library.efficientnet_b5().features[0][1]
    norm = partial(type(b5), eps=b5.eps, momentum=b5.momentum)
    arguments = dict(dropout=0.0, stochastic_depth_prob=0.0, num_classes=5, norm_layer=norm)
    theirs = enliven(library.EfficientNet(settings, **arguments))
    off = dict(dropout_rate=0.0, stochastic_depth_rate=0.0, num_classes=5)
    model = EfficientNet(0.25, stages=tuple(rows), epsilon=row["epsilon"], momentum=row["momentum"], **off)
    rules, images = efficientnet.TORCHVISION, pixels(2, 64)
    variables = converted(model, theirs, rules, images)
    check_gradient(model, variables, theirs, images)
    check_training(model, variables, theirs, images, rules)
