"""The same weights in torch give the same logits and the same running statistics.

torch keeps the unbiased variance of a batch in its running average, Flax and we the biased one. With n values per
channel, torch's share of a batch is n / (n - 1) times ours; the comparison takes that factor out.
"""

import jax
import numpy as np
import pytest

from deepmodels.models import create
from deepmodels.models.resnet import BasicBlock, Bottleneck, CifarPreactResNet, CifarResNet, ResNet

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402


def norm(channels):
    return nn.BatchNorm2d(channels)


def conv(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


class TorchBasic(nn.Module):
    def __init__(self, inputs, features, stride, shortcut):
        super().__init__()
        self.conv1, self.norm1 = conv(inputs, features, 3, stride), norm(features)
        self.conv2, self.norm2 = conv(features, features, 3), norm(features)
        self.stride, self.new = stride, features - inputs
        self.changes = stride > 1 or self.new > 0
        self.shortcut = shortcut
        if self.changes and shortcut == "projection":
            self.conv_skip, self.norm_skip = conv(inputs, features, 1, stride), norm(features)

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.changes and self.shortcut == "projection":
            x = self.norm_skip(self.conv_skip(x))
        elif self.changes:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new // 2, self.new // 2))
        return F.relu(x + y)


class TorchBottleneck(nn.Module):
    def __init__(self, inputs, features, stride, version):
        super().__init__()
        first, second = (stride, 1) if version == "v1" else (1, stride)
        self.conv1, self.norm1 = conv(inputs, features, 1, first), norm(features)
        self.conv2, self.norm2 = conv(features, features, 3, second), norm(features)
        self.conv3, self.norm3 = conv(features, 4 * features, 1), norm(4 * features)
        self.changes = stride > 1 or inputs != 4 * features
        if self.changes:
            self.conv_skip, self.norm_skip = conv(inputs, 4 * features, 1, stride), norm(4 * features)

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return F.relu(y + (self.norm_skip(self.conv_skip(x)) if self.changes else x))


class TorchPreact(nn.Module):
    def __init__(self, inputs, features, stride):
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), conv(inputs, features, 1, stride)
        self.norm2, self.conv2 = norm(features), conv(features, features, 3)
        self.norm3, self.conv3 = norm(features), conv(features, 4 * features, 1)
        self.changes = stride > 1 or inputs != 4 * features
        if self.changes:
            self.conv_skip = conv(inputs, 4 * features, 1, stride)

    def forward(self, x):
        y = F.relu(self.norm1(x))
        x = self.conv_skip(y) if self.changes else x
        y = self.conv2(F.relu(self.norm2(self.conv1(y))))
        return x + self.conv3(F.relu(self.norm3(y)))


class TorchImageNet(nn.Module):
    def __init__(self, block, stage_sizes, expansion, num_classes, **arguments):
        super().__init__()
        self.stem_conv, self.stem_norm = nn.Conv2d(3, 64, 7, 2, 3, bias=False), norm(64)
        self.blocks, inputs = [], 64
        for i, size in enumerate(stage_sizes):
            for j in range(size):
                name = f"stage{i}_block{j}"
                self.add_module(name, block(inputs, 64 * 2**i, 2 if i and not j else 1, **arguments))
                self.blocks.append(name)
                inputs = expansion * 64 * 2**i
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem_norm(self.stem_conv(x))), 3, 2, 1)
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.head(x.mean((2, 3)))


class TorchCifar(nn.Module):
    def __init__(self, size, features, num_classes, preact):
        super().__init__()
        self.stem_conv, self.preact = conv(3, features[0], 3), preact
        if not preact:
            self.stem_norm = norm(features[0])
        self.blocks, inputs = [], features[0]
        for i, width in enumerate(features):
            for j in range(size):
                stride = 2 if i and not j else 1
                block = TorchPreact(inputs, width, stride) if preact else TorchBasic(inputs, width, stride, "padding")
                self.add_module(f"stage{i}_block{j}", block)
                self.blocks.append(f"stage{i}_block{j}")
                inputs = 4 * width if preact else width
        if preact:
            self.head_norm = norm(inputs)
        self.head = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.stem_conv(x)
        x = x if self.preact else F.relu(self.stem_norm(x))
        for name in self.blocks:
            x = getattr(self, name)(x)
        x = F.relu(self.head_norm(x)) if self.preact else x
        return self.head(x.mean((2, 3)))


class TorchLeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5, padding=2), nn.Conv2d(6, 16, 5)
        self.dense1, self.dense2, self.head = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.permute(0, 2, 3, 1).flatten(1)  # our images are channels-last, and so is what the dense layers see
        return self.head(F.relu(self.dense2(F.relu(self.dense1(x)))))


def randomise(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (layer.bias, layer.running_mean):
                    tensor.normal_(0, 0.3)


def exported(module, like):
    """torch's weights in the form of the Linen variables `like`; the blocks of a scanned stage are stacked."""

    def leaf(path, shape):
        names = [entry.key for entry in path[1:]]
        prefix = names[0].removesuffix("s") if names[0].endswith("_blocks") else None
        if prefix is None:
            return convert(module.get_submodule(".".join(names[:-1])), names[-1])
        own = [name for name in module.blocks if name.startswith(prefix)][-shape.shape[0] :]
        return np.stack([convert(module.get_submodule(".".join([name, *names[1:-1]])), names[-1]) for name in own])

    def convert(layer, name):
        if name == "kernel":
            axes = (1, 0) if isinstance(layer, nn.Linear) else (2, 3, 1, 0)
            return layer.weight.detach().permute(axes).numpy()
        field = {"scale": "weight", "mean": "running_mean", "var": "running_var"}.get(name, name)
        return getattr(layer, field).detach().numpy().copy()

    return jax.tree_util.tree_map_with_path(leaf, like)


def train(module, images):
    """One forward pass in training mode; the running variances end up as they would be with the biased ones."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    before, sizes = [layer.running_var.clone() for layer in norms], {}
    for layer in norms:
        layer.register_forward_pre_hook(lambda layer, args: sizes.update({layer: args[0].numel() // args[0].shape[1]}))
    out = module.train()(images)
    for layer, old in zip(norms, before, strict=True):
        unbiased = sizes[layer] / (sizes[layer] - 1)
        layer.running_var.copy_(0.9 * old + (layer.running_var - 0.9 * old) / unbiased)
    return out.numpy()


CASES = {
    "cifar": (CifarResNet(3, (4, 8)), lambda: TorchCifar(3, (4, 8), 10, preact=False), (4, 9, 9, 3)),
    "preact": (CifarPreactResNet(2, (4, 8)), lambda: TorchCifar(2, (4, 8), 10, preact=True), (4, 8, 8, 3)),
    "basic": (
        ResNet(BasicBlock, (1, 1), num_classes=5),
        lambda: TorchImageNet(TorchBasic, (1, 1), 1, 5, shortcut="projection"),
        (4, 32, 32, 3),
    ),
    **{
        f"bottleneck {version}": (
            ResNet(Bottleneck, (1, 2), num_classes=5, version=version),
            lambda version=version: TorchImageNet(TorchBottleneck, (1, 2), 4, 5, version=version),
            (4, 33, 30, 3),
        )
        for version in ("v1", "v1.5")
    },
}


@pytest.mark.parametrize("case", CASES)
def test_residual_networks(case):
    model, build, shape = CASES[case]
    reference = build()
    randomise(reference)
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    theirs = torch.from_numpy(images).permute(0, 3, 1, 2)
    like = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = exported(reference, like)

    with torch.no_grad():
        expected = reference.eval()(theirs).numpy()
        np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-4, atol=1e-4)

        expected = train(reference, theirs)
        logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)

    expected, old = exported(reference, like)["batch_stats"], variables["batch_stats"]
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4), updated["batch_stats"], expected)
    assert not any(jax.tree.leaves(jax.tree.map(np.allclose, expected, old)))  # they did move


def test_lenet5():
    model, reference = create("lenet5"), TorchLeNet5()
    images = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype(np.float32)
    variables = exported(reference, jax.eval_shape(model.init, jax.random.key(0), images))
    with torch.no_grad():
        expected = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(model.apply(variables, images), expected, rtol=1e-4, atol=1e-5)
