import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.layers import cache

LAYERS, SHAPE = 2, (2, 3)


def texts(lengths, seed=0):
    """What each row is given, token by token: (layers, tokens, 2, 3)."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(LAYERS, length, *SHAPE)).astype(np.float32) for length in lengths]


def feed(chunks, window, length, rows, quantized=False):
    """Feeds rows in chunks of padded width; yields what each real token sees of layer 1, as (row, position, keys)."""
    buffers = cache.make(len(rows), LAYERS, length, {"keys": SHAPE}, window=window, quantized=quantized)
    position = jnp.zeros(len(rows), jnp.int32)

    @jax.jit
    def extend(buffers, new, position, lengths):
        plan = cache.plan(buffers, position, new.shape[2], lengths, window)
        for layer in range(LAYERS):
            buffers, held = cache.extend(buffers, jnp.int32(layer), {"keys": new[layer]}, plan)
        return buffers, held["keys"], plan.mask

    for width, lengths in chunks:
        new = np.full((LAYERS, len(rows), width, *SHAPE), 1e6, np.float32)  # padding that would be seen
        for row, (text, start, count) in enumerate(zip(rows, position, lengths, strict=True)):
            new[:, row, :count] = text[:, start : start + count]
        buffers, keys, mask = extend(buffers, new, position, jnp.asarray(lengths, jnp.int32))
        for row, count in enumerate(lengths):
            for t in range(count):
                yield row, int(position[row]) + t, np.asarray(keys[row])[np.asarray(mask[row, 0, t])]
        position += jnp.asarray(lengths, jnp.int32)


def in_order(keys):
    return keys[np.lexsort(keys.reshape(len(keys), -1).T)]


@pytest.mark.parametrize("window", [None, 3, 40])
def test_a_token_sees_what_is_before_it_in_its_own_row(window):
    # a long prompt, single tokens, several at once, and rows that pause; 3 + SLACK slots begin anew after 19
    chunks = [(24, (24, 5)), (1, (1, 1)), (1, (1, 0)), (4, (2, 4)), (17, (17, 1)), (18, (3, 18))]
    rows = texts([sum(lengths[row] for _, lengths in chunks) for row in range(2)])
    seen = 0
    for row, t, keys in feed(chunks, window, 64, rows):
        expected = rows[row][1, max(0, t + 1 - (window or 64)) : t + 1]
        np.testing.assert_array_equal(in_order(keys), in_order(expected))
        seen += 1
    assert seen == sum(len(row[0]) for row in rows)


def test_a_window_needs_no_more_than_its_own_slots():
    entries = {"keys": SHAPE, "values": (5,)}
    rolling = cache.make(2, 3, 100, entries, window=8)
    assert {name: x.shape for name, x in rolling.items()} == {
        "keys": (2, 3, 8 + cache.SLACK, *SHAPE),
        "values": (2, 3, 8 + cache.SLACK, 5),
    }
    assert cache.make(2, 3, 10, entries, window=8)["keys"].shape[2] == 10


@pytest.mark.parametrize("window", [None, 3])
def test_a_row_forgets_what_it_is_set_back_by(window):
    (text,), (other,) = texts([60]), texts([60], seed=1)
    buffers = cache.make(1, LAYERS, 64, {"keys": SHAPE}, window=window)

    @jax.jit
    def extend(buffers, new, position):
        plan = cache.plan(buffers, position, new.shape[2], None, window)
        for layer in range(LAYERS):
            buffers, held = cache.extend(buffers, layer, {"keys": new[layer]}, plan)
        return buffers, held["keys"], plan.mask

    at = 0
    for _ in range(3):  # writes what is then taken back, as many as there is slack for
        buffers, _, _ = extend(buffers, text[:, None, at : at + 2], jnp.array([at]))
        at += 2
        buffers, _, _ = extend(buffers, other[:, None, at : at + cache.SLACK + 1], jnp.array([at]))
    for t in range(at, 50):
        buffers, keys, mask = extend(buffers, text[:, None, t : t + 1], jnp.array([t]))
        expected = text[1, max(0, t + 1 - (window or 64)) : t + 1]
        np.testing.assert_array_equal(in_order(np.asarray(keys[0])[np.asarray(mask[0, 0, 0])]), in_order(expected))


def test_int8_is_off_by_a_254th_of_the_largest_at_most():
    (text,) = texts([40])
    text[1, 3] = 0  # a vector without a scale
    for _, t, keys in feed([(20, (20,)), *[(1, (1,))] * 20], None, 40, [text], quantized=True):
        expected = text[1, : t + 1]
        bound = np.abs(expected).max(-1, keepdims=True) / 254 * (1 + 1e-5)
        assert (np.abs(keys - expected) <= bound).all()
    buffers = cache.make(1, LAYERS, 40, {"keys": (2, 64)}, quantized=True)
    assert sum(x.nbytes for x in buffers.values()) == LAYERS * 40 * 2 * (64 + 4)


def test_buffers_are_in_the_dtype_that_is_asked_for():
    buffers = cache.make(1, 1, 4, {"keys": (1, 2)}, jnp.bfloat16)
    plan = cache.plan(buffers, jnp.zeros(1, jnp.int32), 1)
    buffers, held = cache.extend(buffers, 0, {"keys": jnp.full((1, 1, 1, 2), 1.00390625)}, plan)
    assert (buffers["keys"].dtype, held["keys"].dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(held["keys"][0, 0], [[1.0, 1.0]])  # as bfloat16 has it
