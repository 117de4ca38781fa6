"""The neocognitron. Fukushima (1980), Biological Cybernetics 36:193-202, doi:10.1007/BF00344251.

Layers of S-cells, which find features and learn which ones, alternate with layers of C-cells, which answer wherever
nearby a feature is found. Both kinds divide by an inhibitory signal ("shunting"). Nothing is labelled: `learn` is shown
patterns, and the cells that answer most strongly come to answer more strongly still.

In the paper's symbols, numbered as in the functions below, with phi(x) = max(x, 0), k a plane of cells, n a place in it
and v an offset:

    u_S(k, n) = r phi((1 + sum_k',v a(k', v, k) u(k', n + v)) / (1 + 2 r / (1 + r) b(k) v_C(n)) - 1)        (1)
    v_C(n)    = sqrt(sum_k',v c(v) u(k', n + v)^2),  where sum_k',v c(v) = 1                                (2)
    u_C(k, n) = psi((1 + sum_v d(v) u_S(k, n + v)) / (1 + v_S(n)) - 1),  psi(x) = phi(x) / (alpha + phi(x)) (3)
    v_S(n)    = mean_k sum_v d(v) u_S(k, n + v)                                                             (4)

c and d are fixed and fall with |v|; a and b are learned. Of a pattern that is shown, a plane whose cell at n wins takes

    delta a(k', v) = q c(v) u(k', n + v)                                                                    (5)
    delta b        = q / 2 v_C(n)                                                                           (6)

so that a well-trained cell answers phi((1 + r) s - r) to a pattern whose cosine with its own is s: the larger r, the
choosier the cell. a and b are the parameters, 29,472 of them in the layout of 1980.

The equations, the sizes of the layers, of the areas that cells see and of the columns, r (4, 1.5, 1.5), q (1, 16, 16),
alpha (0.5), first b of zero and the 20 presentations are the paper's, as far as summaries and other builds of it agree;
the numbers of the equations are not. Where its text leaves a choice, it is made here: c(v) and d(v) are powers of
`decay` and `spread`; `oriented` makes the first weights; and the C-layers, which are half as dense as their S-layers,
have a cell at every second place from which its area reaches the S-layer, which gives the paper's sizes, 16 to 10 and 8
to 6.

Taught five digits in the middle of the image, without labels, each digit has a winner of its own among the last
C-cells, which stays the winner for every shift of up to 2 pixels and 91.8 % of those of up to 3, as far as there is
room (`pytest -s tests/models/test_neocognitron.py -k shifted`). The paper shows its patterns at random places, which is
harder: shown at places of up to 2 pixels off, each digit again has a winner of its own, which stays the winner for
92.8 % of the shifts of up to 2 pixels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from deepmodels.layers.checks import check_images
from deepmodels.models.variant import Variant, images


class Stage(NamedTuple):
    """An S-layer and the C-layer after it.

    Attributes:
      planes: of each of the two layers.
      padding: zeros around what the S-cells see; each sees 5x5 places.
      selectivity: r.
      rate: q, how fast its S-cells learn.
      column: height and width of the columns of S-cells in which one wins.
      area: height and width of what a C-cell sees.
      stride: places from C-cell to C-cell.
      margin: zeros before and after what the C-cells see.
    """

    planes: int
    padding: int
    selectivity: float
    rate: float
    column: int
    area: int
    stride: int
    margin: tuple[int, int]


WINDOW = 5  # height and width of what an S-cell sees, in all layers


def s_cells(u: Array, a: Array, b: Array, *, padding: int, selectivity: float, decay: float) -> Array:
    """Returns the outputs of S-cells: equation 1.

    Args:
      u: outputs of the layer before, (B, H, W, J), none negative.
      a: excitatory weights, (5, 5, J, K), none negative.
      b: inhibitory weights, (K,), none negative.
      padding: zeros around u.
      selectivity: r.
      decay: as for `inhibition`.

    Returns:
      (B, H', W', K).
    """
    excitation = _correlate(u, a, [(padding, padding)] * 2)
    shunt = 2 * selectivity / (1 + selectivity) * b[None, None, None] * inhibition(u, padding=padding, decay=decay)
    return selectivity * nn.relu((1 + excitation) / (1 + shunt) - 1)


def inhibition(u: Array, *, padding: int, decay: float) -> Array:
    """Returns the outputs of the inhibitory cells beside S-cells, v_C (B, H', W', 1): equation 2.

    Args:
      u: outputs of the layer before the S-cells, (B, H, W, J).
      padding: zeros around u.
      decay: c(v) falls with its power |v|.
    """
    c = jnp.asarray(_fixed_weights(u.shape[-1], decay), u.dtype)
    return jnp.sqrt(_correlate(jnp.square(u), c, [(padding, padding)] * 2))


def c_cells(u: Array, *, area: int, stride: int, margin: tuple[int, int], spread: float, saturation: float) -> Array:
    """Returns the outputs of C-cells: equations 3 and 4.

    Args:
      u: outputs of the S-cells, (B, H, W, K).
      area: height and width of what a C-cell sees.
      stride: places from C-cell to C-cell.
      margin: zeros before and after u, along both axes.
      spread: d(v) is its power |v|.
      saturation: alpha.

    Returns:
      (B, H', W', K), in [0, 1).
    """
    planes = u.shape[-1]
    d = jnp.asarray(spread ** _radius(area), u.dtype)[..., None, None]
    pooled = _correlate(u, jnp.tile(d, (1, 1, 1, planes)), [margin, margin], stride, groups=planes)
    x = nn.relu((1 + pooled) / (1 + pooled.mean(-1, keepdims=True)) - 1)
    return x / (saturation + x)


def _fixed_weights(planes: int, decay: float) -> np.ndarray:
    """c(v), (5, 5, planes, 1), of which the sum is 1."""
    c = decay ** _radius(WINDOW)
    return np.tile((c / (planes * c.sum()))[..., None, None], (1, 1, planes, 1))


def _radius(window: int) -> np.ndarray:
    """|v| of each place of a window."""
    offsets = np.arange(window) - (window - 1) / 2
    return np.hypot(offsets[:, None], offsets)


def _correlate(x: Array, kernel: Array, padding: list, stride: int = 1, groups: int = 1) -> Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=axes, feature_group_count=groups
    )


def oriented(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
    """Returns first weights of S-cells, (5, 5, J, K): weak, positive, without any randomness.

    As the paper has it, they depend on v, on k / K and on |k / K - j / J|. Plane k prefers lines of the orientation
    pi k / K and a little the ends on one side of them; where planes see planes, those of a number near its own.

    Args:
      key: isn't used.
      shape: (5, 5, J, K).
      dtype: of the weights.
    """
    window, _, inputs, planes = shape
    offsets = np.arange(window) - (window - 1) / 2
    y, x = offsets[:, None, None, None], offsets[:, None, None]
    # no two planes mirror each other and none looks the same when turned around: symmetric patterns would tie
    preferred = (np.arange(planes) + 0.25) / planes
    angle = np.arctan2(y, x) - np.pi * preferred
    along = 1 + np.cos(2 * angle) / 2 + np.cos(angle) / 2
    near = 1 + np.cos(2 * np.pi * (preferred - np.arange(inputs)[:, None] / inputs))
    weights = 0.08 * 0.9 ** np.hypot(x, y) * along * near / inputs
    return jnp.asarray(np.broadcast_to(weights, shape), dtype)


class SLayer(nn.Module):
    """The S-cells of a stage with their plastic weights, "a" and "b".

    Takes (B, H, W, J) and returns (B, H', W', planes).

    Attributes:
      stage: its sizes and constants.
      decay: as for `Neocognitron`.
    """

    stage: Stage
    decay: float

    @nn.compact
    def __call__(self, u: Array) -> Array:
        a = self.param("a", oriented, (WINDOW, WINDOW, u.shape[-1], self.stage.planes), jnp.float32)
        b = self.param("b", nn.initializers.zeros, (self.stage.planes,), jnp.float32)
        return s_cells(u, a, b, padding=self.stage.padding, selectivity=self.stage.selectivity, decay=self.decay)


class Neocognitron(nn.Module):
    """Figure 2: stages of S-cells and C-cells, the last C-layer one cell to a plane.

    The call takes images (B, 16, 16, 1), none of their pixels negative, and returns the outputs of the last C-cells
    (B, planes), in [0, 1): the strongest is the answer. `train` changes nothing, as the weights learn by `learn`, not
    by gradients. Raises ShapeError if images are of another size.

    Attributes:
      stages: of the network.
      size: height and width of the images.
      decay: c(v) falls with its power |v|.
      spread: d(v) is its power |v|.
      saturation: alpha, the C-cells' input at which half of their range is used up.
    """

    stages: tuple[Stage, ...]
    size: int = 16
    decay: float = 0.9
    spread: float = 0.75
    saturation: float = 0.5

    def setup(self) -> None:
        self.s_layers = [SLayer(stage, self.decay, name=f"s{i}") for i, stage in enumerate(self.stages, start=1)]

    def __call__(self, images: Array, train: bool = False) -> Array:
        *_, last = self.features(images, train).values()
        return last[:, 0, 0]

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the image per place in each layer."""
        strides, stride = {}, 1
        for i, stage in enumerate(self.stages, start=1):
            strides |= {f"s{i}": stride, f"c{i}": (stride := stride * stage.stride)}
        return strides

    def features(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the outputs of the layers in order, "s1", "c1", "s2" and so on, (B, H, W, planes)."""
        check_images(images, height=self.size, width=self.size, channels=1)
        u, maps = images, {}
        for i, (stage, s_layer) in enumerate(zip(self.stages, self.s_layers, strict=True), start=1):
            maps[f"s{i}"] = u = s_layer(u)
            maps[f"c{i}"] = u = c_cells(
                u,
                area=stage.area,
                stride=stage.stride,
                margin=stage.margin,
                spread=self.spread,
                saturation=self.saturation,
            )
        return maps


def learn(model: Neocognitron, params: dict, images: Array, presentations: int = 20) -> dict:
    """Returns the weights after the model has been shown images without labels, one at a time, all layers learning.

    Args:
      model: the network.
      params: its weights, {"s1": {"a": ..., "b": ...}, ...}.
      images: (N, 16, 16, 1), shown in their order.
      presentations: how many times all of them are shown; 20 in the paper.
    """

    def present(params: dict, image: Array) -> tuple[dict, None]:
        maps = model.apply({"params": params}, image[None], method="features")
        before, learned = image[None], {}
        for i, stage in enumerate(model.stages, start=1):
            learned[f"s{i}"] = reinforce(params[f"s{i}"], before, maps[f"s{i}"], stage, model.decay)
            before = maps[f"c{i}"]
        return learned, None

    return lax.scan(present, params, jnp.tile(images, (presentations, 1, 1, 1)))[0]


def reinforce(weights: dict, u: Array, outputs: Array, stage: Stage, decay: float) -> dict:
    """Returns an S-layer's weights after one presentation: equations 5 and 6.

    The a of a plane with a seed cell grow by q c(v) times what the seed cell sees, its b by q / 2 times what inhibits
    the seed cell; the other planes keep theirs.

    Args:
      weights: {"a": (5, 5, J, K), "b": (K,)}.
      u: outputs of the layer before, (1, H, W, J).
      outputs: of the S-cells, (1, H', W', K).
      stage: the layer's sizes and constants.
      decay: as for `inhibition`.
    """
    places, found = seed_cells(outputs[0], stage.column)
    pads = [(stage.padding, stage.padding)] * 2
    seen = jax.vmap(lambda place: _window(jnp.pad(u[0], (*pads, (0, 0))), place, WINDOW))(places)
    inhibited = inhibition(u, padding=stage.padding, decay=decay)[0, places[:, 0], places[:, 1], 0]
    rates = stage.rate * found.astype(u.dtype)
    c = jnp.asarray(_fixed_weights(u.shape[-1], decay), u.dtype)
    return {
        "a": weights["a"] + rates[None, None, None] * c * jnp.moveaxis(seen, 0, -1),
        "b": weights["b"] + rates / 2 * inhibited,
    }


def seed_cells(outputs: Array, column: int) -> tuple[Array, Array]:
    """Returns the place of each plane's seed cell, (K, 2), and whether the plane has one, (K,).

    In each column, the cells of all planes within column x column places, the strongest is a candidate if it answers at
    all. A plane's strongest candidate is its seed cell.

    Args:
      outputs: of the S-cells, (H, W, K).
      column: height and width of a column.
    """
    height, width, planes = outputs.shape
    corners = np.stack(np.mgrid[: height - column + 1, : width - column + 1], -1).reshape(-1, 2)
    columns = jax.vmap(lambda corner: _window(outputs, corner, column).ravel())(jnp.asarray(corners))
    y, x, plane = jnp.unravel_index(columns.argmax(1), (column, column, planes))
    candidates = jnp.zeros_like(outputs).at[corners[:, 0] + y, corners[:, 1] + x, plane].max(columns.max(1))
    flat = candidates.reshape(-1, planes)
    return jnp.stack(jnp.unravel_index(flat.argmax(0), (height, width)), -1), flat.max(0) > 0


def _window(x: Array, corner: Array, size: int) -> Array:
    return lax.dynamic_slice(x, (corner[0], corner[1], 0), (size, size, x.shape[-1]))


def _stages(planes: int) -> tuple[Stage, ...]:
    """Section 5: 16x16 to 16x16 and 10x10, 8x8 and 6x6, 2x2 and 1."""
    return (
        Stage(planes, padding=2, selectivity=4.0, rate=1.0, column=5, area=5, stride=2, margin=(4, 3)),
        Stage(planes, padding=1, selectivity=1.5, rate=16.0, column=5, area=5, stride=2, margin=(4, 3)),
        Stage(planes, padding=0, selectivity=1.5, rate=16.0, column=2, area=2, stride=2, margin=(0, 0)),
    )


_PAPER = "Fukushima (1980), doi:10.1007/BF00344251"

VARIANTS = {
    "neocognitron": Variant(Neocognitron, dict(stages=_stages(24)), images(16, 16, 1), 29_472, 1980, _PAPER),
    "neocognitron_tiny": Variant(Neocognitron, dict(stages=_stages(8)), images(16, 16, 1), 3_424, 1980, _PAPER),
}
