"""Pictures and texts in one space: which text is a picture's, which pictures are a text's.

B pictures, N texts, K classes, E size of an embedding.
"""

from collections.abc import Callable, Sequence

import numpy as np

from deepmodels.errors import ConfigError, ShapeError


def recall_at(queries: np.ndarray, candidates: np.ndarray, k: int, own: np.ndarray | None = None) -> float:
    """Returns the share of queries whose counterpart is among the k candidates that are nearest by cosine.

    Candidates as near as the counterpart count as nearer.

    Args:
      queries: embeddings (B, E).
      candidates: (N, E).
      k: how many candidates are looked at.
      own: (B,) integers, the number of each query's counterpart; by default that of the query itself.

    Raises:
      ShapeError: the arrays don't fit together.
      ConfigError: k isn't 1 to N.
    """
    queries, candidates = np.asarray(queries, np.float64), np.asarray(candidates, np.float64)
    own = np.arange(len(queries)) if own is None else np.asarray(own)
    fits = queries.ndim == candidates.ndim == 2 and queries.shape[1] == candidates.shape[1]
    if not fits or own.shape != (len(queries),) or not np.all((own >= 0) & (own < len(candidates))):
        raise ShapeError(
            f"recall_at: expected queries (B, E), candidates (N, E) and own (B,) below N, got {queries.shape}, "
            f"{candidates.shape} and {own.shape}"
        )
    if not 1 <= k <= len(candidates):
        raise ConfigError(f"k: expected 1 to {len(candidates)}, the number of candidates, got {k}")
    scores = _unit(queries) @ _unit(candidates).T
    true = np.take_along_axis(scores, own[:, None], 1)
    return float(np.mean((scores >= true).sum(1) <= k))


def class_embeddings(
    encode: Callable[[Sequence[str]], np.ndarray], class_names: Sequence[str], templates: Sequence[str] = ("{}",)
) -> np.ndarray:
    """Returns an embedding (K, E) of length 1 of each class: the mean direction of its name in some sentences.

    Radford et al. (2021), arXiv:2103.00020, section 3.1.4.

    Args:
      encode: texts to embeddings (N, E).
      class_names: K of them.
      templates: sentences with {} where the name belongs: "a photo of a {}.".

    Raises:
      ConfigError: there is no template, or one has no {}.
    """
    if not templates or not all("{}" in template for template in templates):
        raise ConfigError(f"templates: expected sentences with {{}} for the name, got {list(templates)}")
    texts = [template.format(name) for name in class_names for template in templates]
    embeddings = _unit(np.asarray(encode(texts), np.float64)).reshape(len(class_names), len(templates), -1)
    return _unit(embeddings.mean(1))


def zero_shot(images: np.ndarray, classes: np.ndarray, scale: float = 100.0) -> np.ndarray:
    """Returns the probabilities (B, K) of classes that a model was never trained to tell apart, by their names.

    Args:
      images: embeddings (B, E).
      classes: as `class_embeddings` returns them, (K, E).
      scale: of the cosines: the model's.
    """
    logits = scale * _unit(np.asarray(images, np.float64)) @ _unit(np.asarray(classes, np.float64)).T
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def rerank(images: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Returns the numbers of pictures from the one that fits a text best to the one that fits it least.

    With it DALL-E chooses among its samples: Ramesh et al. (2021), arXiv:2102.12092, section 2.6.

    Args:
      images: embeddings (B, E).
      text: embedding (E,).
    """
    return np.argsort(-_unit(np.asarray(images, np.float64)) @ _unit(np.asarray(text, np.float64)), kind="stable")


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
