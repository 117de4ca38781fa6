"""pix2pix and CycleGAN against builds of the authors' networks: the same layers and names, nested as theirs are."""

import jax
import numpy as np
import oracles
import pytest
from comparison import enliven
from text_comparison import assert_close, check_gradients

from deepmodels.models.translation import CycleGAN, Pix2Pix
from deepmodels.weights import translation
from deepmodels.weights.convert import from_ours, to_ours

pytestmark = pytest.mark.parity


def unet(channels, downs=8):
    nn = oracles.import_torch().nn
    widths = [channels * min(2**i, 8) for i in range(downs)]

    class Block(nn.Module):
        def __init__(self, level):
            super().__init__()
            self.level, width = level, widths[level]
            outer = widths[level - 1] if level else 3
            down = nn.Conv2d(outer, width, 4, 2, 1, bias=False)
            last = level == downs - 1
            up = nn.ConvTranspose2d(width if last else 2 * width, outer, 4, 2, 1, bias=level == 0)
            inner = [] if last else [Block(level + 1)]
            if level == 0:
                layers = [down, *inner, nn.ReLU(), up, nn.Tanh()]
            elif last:
                layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, nn.BatchNorm2d(outer)]
            else:
                norms = nn.BatchNorm2d(width), nn.BatchNorm2d(outer)
                layers = [nn.LeakyReLU(0.2), down, norms[0], *inner, nn.ReLU(), up, norms[1]]
            self.model = nn.Sequential(*layers)

        def forward(self, x):
            made = self.model(x)
            return made if self.level == 0 else oracles.import_torch().cat([x, made], 1)

    module = nn.Module()
    module.model = Block(0)
    module.forward = module.model.forward
    return module


def patches(fed, channels, norm):
    nn = oracles.import_torch().nn
    instance = norm is nn.InstanceNorm2d
    layers = [nn.Conv2d(fed, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
    for i, stride in ((1, 2), (2, 2), (3, 1)):
        width = channels * 2**i
        layers += [nn.Conv2d(width // 2, width, 4, stride, 1, bias=instance), norm(width), nn.LeakyReLU(0.2)]
    return named(nn.Sequential(*layers, nn.Conv2d(8 * channels, 1, 4, 1, 1)))


def resnet(channels):
    nn = oracles.import_torch().nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            half = lambda: (nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width))  # noqa: E731
            self.conv_block = nn.Sequential(*half(), nn.ReLU(), *half())

        def forward(self, x):
            return x + self.conv_block(x)

    c = channels
    layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, c, 7), nn.InstanceNorm2d(c), nn.ReLU()]
    for width in (2 * c, 4 * c):
        layers += [nn.Conv2d(width // 2, width, 3, 2, 1), nn.InstanceNorm2d(width), nn.ReLU()]
    layers += [Block(4 * c) for _ in range(9)]
    for width in (2 * c, c):
        layers += [nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), nn.InstanceNorm2d(width), nn.ReLU()]
    return named(nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(c, 3, 7), nn.Tanh()))


def named(sequence):
    module = oracles.import_torch().nn.Module()
    module.model = sequence
    module.forward = sequence.forward
    return module


def converted(model, networks, rules, images):
    torch = oracles.import_torch()
    networks = oracles.randomise(enliven(torch.nn.ModuleDict(networks)))
    state = oracles.state_dict(networks)
    variables = to_ours(state, rules, jax.eval_shape(model.init, jax.random.key(0), images))
    written = from_ours({k: v for k, v in variables.items() if k != "pool"}, rules)
    assert written.keys() == {name for name in state if "num_batches" not in name}
    for name, array in written.items():
        np.testing.assert_array_equal(array, state[name])
    return networks, variables


def tensor(x):
    return oracles.import_torch().from_numpy(np.moveaxis(x, -1, 1).copy())


def numpy(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def test_pix2pix_is_the_authors():
    torch = oracles.import_torch()
    images, target = np.random.default_rng(0).uniform(-1, 1, (2, 1, 256, 256, 3)).astype(np.float32)
    model = Pix2Pix(channels=2, critic_channels=3)
    networks = {"G": unet(2), "D": patches(6, 3, torch.nn.BatchNorm2d)}
    networks, variables = converted(model, networks, translation.PIX2PIX, images)
    ours = jax.jit(model.apply)(variables, images, target)
    fake = networks["G"](tensor(images))
    assert_close("fake", ours["fake"], numpy(fake))
    for name, seen in {"real_logits": tensor(target), "fake_logits": fake}.items():
        assert_close(name, ours[name], numpy(networks["D"](torch.cat([tensor(images), seen], 1)))[..., 0])
    doubles = images.astype(np.float64)
    check_gradients(
        lambda v: model.apply(v, doubles)["fake_logits"],
        variables,
        networks,
        lambda n: n["D"](torch.cat([tensor(doubles), n["G"](tensor(doubles))], 1))[:, 0],
        translation.PIX2PIX,
    )


def test_cyclegan_is_the_authors():
    torch = oracles.import_torch()
    images, other = np.random.default_rng(0).uniform(-1, 1, (2, 1, 32, 32, 3)).astype(np.float32)
    model = CycleGAN(channels=3, critic_channels=4, pool_size=0)
    networks = {"G_A": resnet(3), "G_B": resnet(3)}
    networks |= {name: patches(3, 4, torch.nn.InstanceNorm2d) for name in ("D_A", "D_B")}
    networks, variables = converted(model, networks, translation.CYCLEGAN, images)
    ours = jax.jit(model.apply)(variables, images, other)
    with torch.no_grad():
        fake, other_fake = networks["G_A"](tensor(images)), networks["G_B"](tensor(other))
        assert_close("fake", ours["fake"], numpy(fake))
        assert_close("other_fake", ours["other_fake"], numpy(other_fake))
        assert_close("cycled", ours["cycled"], numpy(networks["G_B"](fake)))
        assert_close("other_same", ours["other_same"], numpy(networks["G_B"](tensor(images))))
        assert_close("fake_logits", ours["fake_logits"], numpy(networks["D_A"](fake))[..., 0])
        assert_close("other_real_logits", ours["other_real_logits"], numpy(networks["D_B"](tensor(images)))[..., 0])
    doubles = images.astype(np.float64)
    check_gradients(
        lambda v: model.apply(v, doubles)["fake_logits"],
        variables,
        networks,
        lambda n: n["D_A"](n["G_A"](tensor(doubles)))[:, 0],
        translation.CYCLEGAN,
    )
