"""U-Net: its sizes, its tiles, and both forms against a small torch build of the paper's figure 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels import trees
from deepmodels.errors import ConfigError, ShapeError
from deepmodels.models import create
from deepmodels.models.unet import UNet, overlap_tile


def shape(model, height, width, channels=1):
    images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), images)[0].shape


def test_the_papers_sizes():
    assert shape(create("unet_paper"), 572, 572) == (1, 388, 388, 2)
    assert shape(create("unet_paper"), 188, 604) == (1, 4, 420, 2)
    assert shape(create("unet"), 48, 160, 3) == (1, 48, 160, 2)


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_output_size_is_what_comes_out_of_every_size_that_fits(levels, padding):
    model = UNet((2,) * levels, padding=padding)
    fitting = []
    for size in range(1, 300 if levels == 5 else 60):
        try:
            expected = model.output_size(size)
        except ShapeError:
            continue
        fitting.append(size)
        if len(fitting) <= 2:
            assert shape(model, size, size) == (1, expected, expected, 2)
    assert fitting[0] == {"valid": (5, 18, 44, 188), "same": (1, 2, 4, 16)}[padding][(1, 2, 3, 5).index(levels)]
    assert set(np.diff(fitting)) == {2 ** (levels - 1)}


def test_a_size_that_does_not_fit_names_those_that_do():
    with pytest.raises(ShapeError, match=r"16 n \+ 124, n of 4 or more \(say 556 or 572\), got 570"):
        shape(create("unet_paper"), 572, 570)
    with pytest.raises(ShapeError, match=r"16 n \+ 124, n of 4 or more \(say 188 or 204\), got 64"):
        shape(create("unet_paper"), 64, 64)
    with pytest.raises(ShapeError, match=r"multiples of 16 \(say 48 or 64\), got 60"):
        shape(create("unet"), 60, 64, 3)
    with pytest.raises(ConfigError, match="unknown padding 'full'"):
        shape(UNet(padding="full"), 64, 64)


def test_tiles_join_without_a_seam():
    """The tiles' answers are those of one large tile: 4 divides the step between them, so that poolings coincide."""
    model = UNet((2, 3, 4), num_classes=3, padding="valid", batch_norm=False)
    images = np.random.default_rng(0).normal(size=(2, 30, 37, 1)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 44, 44, 1)))

    @jax.jit
    def tiled(images):
        return overlap_tile(lambda x: model.apply(variables, x), images, 48, model.output_size(48))

    margin = (48 - model.output_size(48)) // 2
    assert margin == 20
    whole = np.pad(images, ((0, 0), (20, 22), (20, 23), (0, 0)), mode="reflect")
    expected = jax.jit(model.apply)(variables, whole)[:, :30, :37]
    np.testing.assert_allclose(tiled(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="larger by an even number, got 48 and 7"):
        overlap_tile(lambda x: x, images, 48, 7)


def test_dropout_is_at_the_end_of_the_contracting_path():
    model = UNet((2, 3, 4, 5), batch_norm=False, dropout_rate=0.5)
    images = np.random.default_rng(0).normal(size=(1, 16, 16, 1)).astype(np.float32)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, method="features"))()

    @jax.jit
    def both():
        rngs = {"dropout": jax.random.key(1)}
        return tuple(model.apply(variables, images, t, method="features", rngs=rngs) for t in (False, True))

    plain, dropped = both()
    same = {name: bool((plain[name] == dropped[name]).all()) for name in plain}
    assert same == {"down0": True, "down1": True, "down2": False, "down3": False}
    kept = (dropped["down2"] != 0) & (plain["down2"] != 0)
    np.testing.assert_allclose(dropped["down2"][kept], 2 * plain["down2"][kept], rtol=1e-6)


def torch_unet(torch, channels, classes, padding):
    """Figure 1 as a torch module; with padding also batch normalisation, as the form in use has."""
    nn = torch.nn

    def double(inputs, outputs):
        pixels = {"valid": 0, "same": 1}[padding]
        layers = []
        for source in (inputs, outputs):
            layers.append(nn.Conv2d(source, outputs, 3, padding=pixels, bias=padding == "valid"))
            layers += [nn.BatchNorm2d(outputs)] if padding == "same" else []
            layers.append(nn.ReLU())
        return nn.Sequential(*layers)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            pairs = list(zip((1, *channels), channels, strict=False))
            self.down = nn.ModuleList(double(*pair) for pair in pairs)
            self.enlarge = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, 2) for a, b in pairs[1:])
            self.up = nn.ModuleList(double(2 * a, a) for a in channels[:-1])
            self.head = nn.Conv2d(channels[0], classes, 1)

        def forward(self, x):
            skips = []
            for i, layer in enumerate(self.down):
                x = layer(nn.functional.max_pool2d(x, 2) if i else x)
                skips.append(x)
            for i in reversed(range(len(self.up))):
                x = self.enlarge[i](x)
                top, left = ((skips[i].shape[n] - x.shape[n]) // 2 for n in (2, 3))
                skip = skips[i][:, :, top : top + x.shape[2], left : left + x.shape[3]]
                x = self.up[i](torch.cat([skip, x], 1))
            return self.head(x)

    return Net().eval()


@pytest.mark.parity
@pytest.mark.parametrize(("padding", "size"), [("valid", 100), ("same", 40)])
def test_the_same_weights_in_torch_give_the_same_logits(padding, size):
    """Both forms, random weights: largest differences of 3e-8 (valid) and 6e-8 (same) with torch 2.13.0."""
    torch = pytest.importorskip("torch")
    import oracles

    from deepmodels.weights.convert import CONV, Rule, batch_norm, conv, to_ours

    channels = (4, 6, 8, 10)
    torch.manual_seed(0)
    theirs = oracles.randomise(torch_unet(torch, channels, 3, padding))
    model = UNet(channels, num_classes=3, padding=padding, batch_norm=padding == "same")
    step = 3 if padding == "same" else 2
    rules = [*conv("head", "head"), *conv("enlarge.{i}", "enlarge{i}")]
    for name in ("down", "up"):
        for n in (1, 2):
            source, target = f"{name}.{{i}}.{(n - 1) * step}", f"{name}{{i}}/conv{n}"
            rules += [
                Rule(f"{source}.weight", f"params/{target}/kernel", CONV),
                Rule(f"{source}.bias", f"params/{target}/bias"),
            ]
            if padding == "same":
                rules += batch_norm(f"{name}.{{i}}.{(n - 1) * step + 1}", f"{name}{{i}}/norm{n}")
    images = np.random.default_rng(0).normal(size=(2, size, size, 1)).astype(np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = to_ours(oracles.state_dict(theirs), rules, abstract)
    assert trees.count(variables["params"]) == sum(p.numel() for p in theirs.parameters())
    expected = np.moveaxis(oracles.evaluate(theirs, images), 1, -1)
    logits = jax.jit(model.apply)(variables, images)
    print(f"\n{padding}: differ by {np.abs(logits - expected).max():.1e} of {np.abs(expected).max():.2g}")
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
