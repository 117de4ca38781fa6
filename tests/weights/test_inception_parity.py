import jax
import numpy as np
import oracles
import pytest
from comparison import check_gradient, check_logits, check_training, check_written_back, converted, enliven, pixels

from deepmodels.models import create
from deepmodels.weights import table
from deepmodels.weights.convert import conv, dense, flatten_dense

pytestmark = pytest.mark.parity

RULES = table("torchvision", "inception_v3", "inception")
NO_DROPOUT = dict(dropout_rate=0.0, num_classes=7)


def torchvision(name, **arguments):
    return enliven(oracles.torchvision(name, num_classes=7, init_weights=False, **arguments))


def googlenet_outputs(outputs):
    return outputs["logits"], (outputs["aux_logits1"], outputs["aux_logits2"])  # torchvision has them the other way


def test_googlenet():
    """At 98 pixels windows overhang the maps, and the heads' averages overlap."""
    module = torchvision("googlenet", aux_logits=True, transform_input=False)
    model, images = create("googlenet", aux_heads=True, aux_dropout_rate=0.0, **NO_DROPOUT), pixels(2, 98)
    variables = converted(model, module, RULES, images)
    check_logits(model, variables, module, images)
    check_gradient(model, variables, module, images)
    check_written_back(variables, module, RULES)
    check_training(model, variables, module, images, RULES, googlenet_outputs)


def test_auxiliary_weights_are_left_aside_by_a_model_without_heads():
    module = torchvision("googlenet", aux_logits=True, transform_input=True)
    model, images = create("googlenet", **NO_DROPOUT), pixels(2, 64)
    variables = converted(model, module, RULES, images)
    assert not any(name.startswith("aux") for name in variables["params"])
    # what torchvision's transform_input does to ImageNet's normalisation gives pixels of mean and deviation 0.5
    zero_to_one = np.random.default_rng(0).uniform(size=images.shape).astype(np.float32)
    imagenet = (zero_to_one - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    theirs = oracles.evaluate(module, imagenet)
    ours = jax.jit(model.apply)(variables, (zero_to_one - 0.5) / 0.5)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def test_inception_v3():
    module = torchvision("inception_v3", aux_logits=False, transform_input=False)
    model, images = create("inception_v3", **NO_DROPOUT), pixels(2, 75)
    variables = converted(model, module, RULES, images)
    check_logits(model, variables, module, images)
    check_gradient(model, variables, module, images)
    check_training(model, variables, module, pixels(3, 75), RULES)
    timms = enliven(oracles.timm("inception_v3", num_classes=7))
    rules = table("timm", "inception_v3", "inception")
    variables = converted(model, timms, rules, images)
    check_logits(model, variables, timms, images)
    check_written_back(variables, timms, rules)


def test_inception_v3_with_its_auxiliary_head():
    module = torchvision("inception_v3", aux_logits=True, transform_input=False)
    model, images = create("inception_v3", aux_heads=True, **NO_DROPOUT), pixels(2, 299)
    variables = converted(model, module, RULES, images)
    check_written_back(variables, module, RULES)

    def outputs(theirs):
        return theirs["logits"], (theirs["aux_logits"],)

    check_training(model, variables, module, images, RULES, outputs)


def test_googlenet_of_the_paper():
    """At 128 pixels the heads look at 8x8 maps, which become 2x2. torch's normalisation divides alpha by its size."""
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.nn import functional as F

    def unit(inputs, outputs, size, stride=1):
        return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2), nn.ReLU())

    class Block(nn.Module):
        def __init__(self, inputs, one, three_reduce, three, five_reduce, five, pool):
            super().__init__()
            self.branch1 = unit(inputs, one, 1)
            self.branch2 = nn.Sequential(unit(inputs, three_reduce, 1), unit(three_reduce, three, 3))
            self.branch3 = nn.Sequential(unit(inputs, five_reduce, 1), unit(five_reduce, five, 5))
            self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), unit(inputs, pool, 1))

        def forward(self, x):
            return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)

    class Auxiliary(nn.Module):
        def __init__(self, inputs):
            super().__init__()
            self.conv, self.fc1, self.fc2 = unit(inputs, 128, 1), nn.Linear(128 * 2 * 2, 1024), nn.Linear(1024, 7)

        def forward(self, x):
            return self.fc2(F.relu(self.fc1(torch.flatten(self.conv(F.avg_pool2d(x, 5, 3)), 1))))

    class Paper(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.conv3 = unit(3, 64, 7, 2), unit(64, 64, 1), unit(64, 192, 3)
            self.norm = nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)
            self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
            self.inception3a, self.inception3b = (
                Block(192, 64, 96, 128, 16, 32, 32),
                Block(256, 128, 128, 192, 32, 96, 64),
            )
            self.inception4a = Block(480, 192, 96, 208, 16, 48, 64)
            self.inception4b = Block(512, 160, 112, 224, 24, 64, 64)
            self.inception4c = Block(512, 128, 128, 256, 24, 64, 64)
            self.inception4d = Block(512, 112, 144, 288, 32, 64, 64)
            self.inception4e = Block(528, 256, 160, 320, 32, 128, 128)
            self.inception5a, self.inception5b = (
                Block(832, 256, 160, 320, 32, 128, 128),
                Block(832, 384, 192, 384, 48, 128, 128),
            )
            self.aux1, self.aux2, self.fc = Auxiliary(512), Auxiliary(528), nn.Linear(1024, 7)

        def forward(self, x):
            x = self.norm(self.pool(self.conv1(x)))
            x = self.pool(self.norm(self.conv3(self.conv2(x))))
            x = self.pool(self.inception3b(self.inception3a(x)))
            fourth = self.inception4a(x)
            seventh = self.inception4d(self.inception4c(self.inception4b(fourth)))
            x = self.inception5b(self.inception5a(self.pool(self.inception4e(seventh))))
            logits = self.fc(x.mean((2, 3)))
            if not self.training:
                return logits
            return {"logits": logits, "aux1": self.aux1(fourth), "aux2": self.aux2(seventh)}

    branches = {
        "branch1": "branch1",
        "branch2.0": "branch2_reduce",
        "branch2.1": "branch2",
        "branch3.0": "branch3_reduce",
        "branch3.1": "branch3",
        "branch4.1": "branch4",
    }
    rules = (
        *conv("conv{n}.0", "conv{n}/conv"),
        *(
            row
            for letter in "abcde"
            for source, target in branches.items()
            for row in conv(f"inception{{n}}{letter}.{source}.0", f"inception{{n}}{letter}/{target}/conv")
        ),
        *conv("aux{n}.conv.0", "aux{n}/conv/conv"),
        *dense("aux{n}.fc1", "aux{n}/dense", flatten_dense(128, 2, 2)),
        *dense("aux{n}.fc2", "aux{n}/head"),
        *dense("fc", "head"),
    )
    module = enliven(Paper())
    model = create("googlenet_paper", aux_heads=True, aux_dropout_rate=0.0, **NO_DROPOUT)
    images = 30 * pixels(2, 128)  # so large that the normalisation counts
    variables = converted(model, module, rules, images)
    check_logits(model, variables, module, images)
    check_gradient(model, variables, module, images)
    check_training(
        model, variables, module, images, rules, lambda theirs: (theirs["logits"], theirs["aux1"], theirs["aux2"])
    )
