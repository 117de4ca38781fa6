import numpy as np
import pytest

from deepmodels.errors import ConfigError, ShapeError
from deepmodels.evaluation import class_embeddings, recall_at, rerank, zero_shot


def test_recall_counts_the_counterpart_among_the_nearest():
    candidates = np.eye(4)
    queries = np.array([[1, 0, 0, 0], [0.9, 1, 0.8, 0], [1, 0.9, 0.8, 0], [1, 1, 1, 1]])
    # the last is as near to all as to its own
    assert [recall_at(queries, candidates, k) for k in (1, 2, 3, 4)] == [0.5, 0.5, 0.75, 1.0]
    assert recall_at(queries[:1], candidates, 1, own=np.array([0])) == 1.0
    assert recall_at(queries[:1], candidates, 1, own=np.array([3])) == 0.0
    with pytest.raises(ShapeError, match="expected queries"):
        recall_at(queries, candidates[:, :3], 1)
    with pytest.raises(ConfigError, match="k: expected 1 to 4"):
        recall_at(queries, candidates, 5)


def test_classes_are_told_apart_by_their_names():
    words = {"cat": [1.0, 0, 0], "dog": [0, 1.0, 0]}

    def encode(texts):
        return np.array([words[text.split()[-1]] for text in texts]) * 3 + np.array([[0, 0, len(t)] for t in texts])

    classes = class_embeddings(encode, ["cat", "dog"], ["a {}", "this is a {}"])
    assert classes.shape == (2, 3)
    np.testing.assert_allclose(np.linalg.norm(classes, axis=1), 1)
    probabilities = zero_shot(np.array([[5.0, 0, 1], [0, 2.0, 1]]), classes, scale=10)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert probabilities.argmax(1).tolist() == [0, 1]
    with pytest.raises(ConfigError, match="templates: expected sentences with {} for the name"):
        class_embeddings(encode, ["cat"], ["a cat"])


def test_pictures_are_ordered_by_how_well_they_fit_a_text():
    images = np.array([[0, 1.0], [2.0, 0], [1.0, 1.0]])
    assert rerank(images, np.array([1.0, 0])).tolist() == [1, 2, 0]
