"""The neocognitron: its equations written out, what it learns, and how far its answer is kept under shift.

Measured, with the five digits below and the 24 planes of the paper: after 20 presentations each digit has a winner of
its own among the last C-cells. It stays the winner for all of the 125 patterns that are shifted by up to 2 pixels along
each axis, and for 91.8 % of the 245 shifted by up to 3, the most that a 16x16 image has room for. To measure it again:
`pytest -s tests/models/test_neocognitron.py -k shifted`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.models import create
from deepmodels.models.neocognitron import Stage, c_cells, learn, oriented, reinforce, s_cells, seed_cells

DIGITS = (
    """
...####...
..#....#..
.#......#.
#........#
#........#
#........#
#........#
.#......#.
..#....#..
...####...
""",
    """
....#.....
....#.....
....#.....
....#.....
....#.....
....#.....
....#.....
....#.....
....#.....
....#.....
""",
    """
..######..
.#......#.
#........#
.........#
........#.
......##..
....##....
..##......
.#........
##########
""",
    """
########..
........#.
.........#
........#.
...#####..
........#.
.........#
.........#
#.......#.
.#######..
""",
    """
......#...
.....##...
....#.#...
...#..#...
..#...#...
.#....#...
##########
......#...
......#...
......#...
""",
)


def drawn(down=0, right=0):
    """The five digits in the middle of 16x16 images, or off it."""
    images = np.zeros((5, 16, 16, 1), np.float32)
    for image, digit in zip(images, DIGITS, strict=True):
        ink = np.array([list(row) for row in digit.split()]) == "#"
        image[3 + down : 13 + down, 3 + right : 13 + right, 0] = ink
    return images


@pytest.fixture(scope="module")
def taught():
    model = create("neocognitron")
    params = model.init(jax.random.key(0), drawn())["params"]
    learned = jax.jit(lambda params, images: learn(model, params, images))(params, drawn())
    answer = jax.jit(lambda params, images: model.apply({"params": params}, images))
    return answer, params, learned


def test_each_digit_gets_a_winner_of_its_own_without_a_label(taught):
    answer, params, learned = taught
    winners = answer(learned, drawn()).argmax(1)
    assert len(set(winners.tolist())) == 5
    assert len(set(answer(params, drawn()).argmax(1).tolist())) < 5  # it is by learning
    assert (answer(learned, drawn()).max(1) > 0).all()


def test_the_answer_is_kept_when_the_digit_is_shifted(taught):
    answer, _, learned = taught
    winners = np.asarray(answer(learned, drawn()).argmax(1))
    moves = [(down, right) for down in range(-3, 4) for right in range(-3, 4)]
    shifted = np.concatenate([drawn(*move) for move in moves])
    outputs = np.asarray(answer(learned, shifted)).reshape(len(moves), 5, -1)
    kept = (outputs.argmax(-1) == winners) & (outputs.max(-1) > 0)
    distance = np.abs(moves).max(1)
    rates = [kept[distance <= reach].mean() for reach in (1, 2, 3)]
    print(f"\nkept under shifts of up to 1, 2 and 3 pixels: {', '.join(f'{rate:.1%}' for rate in rates)}")
    assert rates[0] == 1
    assert rates[1] > 0.98
    assert rates[2] > 0.9


def test_it_also_learns_from_shifted_digits(taught):
    answer, params, _ = taught
    model, rng = create("neocognitron"), np.random.default_rng(0)
    shown = np.concatenate([drawn(*rng.integers(-2, 3, 2)) for _ in range(20)])
    learned = jax.jit(lambda params, images: learn(model, params, images, 1))(params, shown)
    winners = np.asarray(answer(learned, drawn()).argmax(1))
    assert len(set(winners.tolist())) == 5
    moves = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    outputs = np.asarray(answer(learned, np.concatenate([drawn(*move) for move in moves]))).reshape(len(moves), 5, -1)
    kept = ((outputs.argmax(-1) == winners) & (outputs.max(-1) > 0)).mean()
    print(f"\nkept under shifts of up to 2 pixels, taught with such: {kept:.1%}")
    assert kept > 0.9


def test_s_cells_by_hand():
    """Equations 1 and 2, in loops."""
    rng = np.random.default_rng(0)
    u, a, b = rng.uniform(0, 1, (1, 6, 6, 3)), rng.uniform(0, 0.1, (5, 5, 3, 4)), np.array([0, 3, 5, 7])
    r, decay = 1.5, 0.9
    c = np.array([[decay ** np.hypot(y, x) for x in range(-2, 3)] for y in range(-2, 3)])
    c /= 3 * c.sum()
    padded = np.pad(u[0], ((1, 1), (1, 1), (0, 0)))
    expected = np.zeros((4, 4, 4))
    for y, x, k in np.ndindex(4, 4, 4):
        seen = padded[y : y + 5, x : x + 5]
        excitation = (a[..., k] * seen).sum()
        v = np.sqrt((c[..., None] * seen**2).sum())
        expected[y, x, k] = r * max((1 + excitation) / (1 + 2 * r / (1 + r) * b[k] * v) - 1, 0)
    assert 0.1 < (expected > 0).mean() < 0.9
    single = [jnp.asarray(array, jnp.float32) for array in (u, a, b)]
    outputs = s_cells(*single, padding=1, selectivity=r, decay=decay)
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-5)


def test_c_cells_by_hand():
    """Equations 3 and 4, in loops."""
    u = np.random.default_rng(0).uniform(0, 1, (1, 8, 8, 3)) ** 4
    alpha, spread = 0.5, 0.8
    d = np.array([[spread ** np.hypot(y, x) for x in range(-2, 3)] for y in range(-2, 3)])
    padded = np.pad(u[0], ((4, 3), (4, 3), (0, 0)))
    expected = np.zeros((6, 6, 3))
    for y, x in np.ndindex(6, 6):
        sums = (d[..., None] * padded[2 * y : 2 * y + 5, 2 * x : 2 * x + 5]).sum((0, 1))
        value = np.maximum((1 + sums) / (1 + sums.mean()) - 1, 0)
        expected[y, x] = value / (alpha + value)
    assert 0.1 < (expected > 0).mean() < 0.9
    outputs = c_cells(jnp.asarray(u, jnp.float32), area=5, stride=2, margin=(4, 3), spread=spread, saturation=alpha)
    np.testing.assert_allclose(outputs[0], expected, rtol=1e-4, atol=1e-5)


def test_a_well_trained_cell_answers_by_the_cosine():
    """phi((1 + r) s - r), s the cosine weighted by c: the limit of equation 1 for weights that have grown large."""
    rng = np.random.default_rng(0)
    pattern, other = rng.uniform(0, 1, (2, 1, 5, 5, 1)).astype(np.float32)
    stage = Stage(planes=1, padding=0, selectivity=4.0, rate=1e6, column=1, area=1, stride=1, margin=(0, 0))
    weights = {"a": jnp.zeros((5, 5, 1, 1)), "b": jnp.zeros(1)}
    weights = reinforce(weights, pattern, jnp.ones((1, 1, 1, 1)), stage, 0.9)
    c = 0.9 ** np.hypot(*np.mgrid[-2:3, -2:3])[None, ..., None]
    cosine = (c * pattern * other).sum() / np.sqrt((c * pattern**2).sum() * (c * other**2).sum())
    for image, s in ((pattern, 1.0), (0.5 * pattern, 1.0), (other, cosine)):
        answer = s_cells(jnp.asarray(image), **weights, padding=0, selectivity=4.0, decay=0.9)
        np.testing.assert_allclose(answer.item(), max(5 * s - 4, 0), atol=1e-3)


def test_reinforcement_goes_to_the_seed_cells_planes_only():
    u = np.random.default_rng(0).uniform(0, 1, (1, 6, 6, 2)).astype(np.float32)
    outputs = np.zeros((1, 4, 4, 3), np.float32)
    outputs[0, 1, 3, 2] = 1
    stage = Stage(planes=3, padding=1, selectivity=1.5, rate=16.0, column=2, area=1, stride=1, margin=(0, 0))
    weights = {"a": jnp.ones((5, 5, 2, 3)), "b": jnp.ones(3)}
    after = reinforce(weights, jnp.asarray(u), jnp.asarray(outputs), stage, 0.9)
    seen = np.pad(u[0], ((1, 1), (1, 1), (0, 0)))[1:6, 3:8]
    c = 0.9 ** np.hypot(*np.mgrid[-2:3, -2:3])[..., None]
    c = c / (2 * c.sum())
    np.testing.assert_allclose(after["a"][..., 2], 1 + 16 * c * seen, rtol=1e-5)
    np.testing.assert_allclose(after["b"][2], 1 + 8 * np.sqrt((c * seen**2).sum()), rtol=1e-5)
    np.testing.assert_array_equal(after["a"][..., :2], 1)
    np.testing.assert_array_equal(after["b"][:2], 1)


def test_seed_cells():
    """Of two planes the stronger wins a column; of a plane's two candidates the stronger is its seed cell."""
    outputs = np.zeros((6, 6, 4), np.float32)
    outputs[0, 0, 0] = 0.9
    outputs[1, 1, 1] = 0.8  # in every one of its columns that has not the 0.9 there is the next
    outputs[2, 2, 0] = 0.85
    outputs[5, 5, 2] = 0.3
    outputs[5, 0, 2] = 0.4
    places, found = seed_cells(jnp.asarray(outputs), 3)
    np.testing.assert_array_equal(found, [True, False, True, False])
    np.testing.assert_array_equal(places[np.array([0, 2])], [(0, 0), (5, 0)])


def test_first_weights_are_weak_positive_and_differ_from_plane_to_plane():
    for shape in ((5, 5, 1, 24), (5, 5, 24, 24)):
        weights = np.asarray(oriented(jax.random.key(0), shape))
        assert weights.min() >= 0
        assert 0 < weights.sum((0, 1, 2)).max() < 10
        assert len(np.unique(weights.reshape(-1, 24).round(5), axis=1).T) == 24


def test_layers_have_the_papers_sizes():
    model = create("neocognitron")
    variables = jax.eval_shape(model.init, jax.random.key(0), drawn())
    maps = jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, drawn())
    sizes = {"s1": 16, "c1": 10, "s2": 8, "c2": 6, "s3": 2, "c3": 1}
    assert {name: layer.shape[1:] for name, layer in maps.items()} == {k: (n, n, 24) for k, n in sizes.items()}
    assert model.strides == {"s1": 1, "c1": 2, "s2": 2, "c2": 4, "s3": 4, "c3": 8}
