import jax.numpy as jnp
import numpy as np
import pytest

from deepmodels.errors import ShapeError
from deepmodels.layers.causal import band, text_positions, visible

TOKENS = jnp.zeros((2, 6), jnp.int32)


def test_positions_count_the_tokens_of_a_text():
    np.testing.assert_array_equal(text_positions(TOKENS), [[0, 1, 2, 3, 4, 5]])
    mask = jnp.array([[0, 0, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0]], bool)
    np.testing.assert_array_equal(text_positions(TOKENS, mask), [[0, 0, 0, 1, 2, 3], [0, 1, 1, 2, 2, 2]])
    documents = jnp.array([[1, 1, 1, 2, 2, 2], [7, 3, 3, 3, 7, 0]])
    np.testing.assert_array_equal(text_positions(TOKENS, None, documents), [[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 0, 0]])
    mask = jnp.array([[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 1]], bool)
    np.testing.assert_array_equal(text_positions(TOKENS, mask, documents), [[0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 0, 0]])


def test_tokens_see_their_own_document_and_no_padding_within_the_window():
    assert visible(TOKENS) is None
    assert visible(TOKENS, window=6) is None
    documents = jnp.array([[1, 1, 2, 2, 2, 2], [1, 2, 2, 3, 3, 3]])
    mask = jnp.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], bool)
    seen = np.broadcast_to(visible(TOKENS, mask, documents, window=2), (2, 1, 6, 6))
    for row in range(2):
        for query in range(6):
            for key in range(query + 1):
                expected = documents[row, query] == documents[row, key] and mask[row, key] and query - key < 2
                assert seen[row, 0, query, key] == expected


def test_a_band_is_of_as_many_keys_as_its_window():
    for window in (1, 3, 9):
        np.testing.assert_array_equal(band(6, window).sum(1), np.minimum(np.arange(6) + 1, window))
        assert not np.triu(band(6, window), 1).any()


def test_documents_of_another_form_are_named():
    with pytest.raises(
        ShapeError, match=r"documents: expected integers of shape \(2, 6\), got int32 of shape \(2, 5\)"
    ):
        visible(TOKENS, documents=TOKENS[:, 1:])
