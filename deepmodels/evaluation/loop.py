"""The evaluation loop: the training objective with `train=False`, averaged over the examples of a split."""

from collections.abc import Callable, Iterable

import jax
import numpy as np

from deepmodels import parallel
from deepmodels.metrics import Mean
from deepmodels.trees import PyTree


def evaluate(
    step: Callable, params: PyTree, variables: PyTree, batches: Iterable[dict[str, jax.Array]]
) -> dict[str, float]:
    """Returns the mean of each metric over all examples, or over all that it weighs.

    Args:
      step: `(params, variables, batch) -> metrics`, jitted: means over the batch's real examples, and each `Mean` over
        what it was weighted with.
      params: the parameters to evaluate.
      variables: the untrained collections.
      batches: placed batches of one shape; "example_mask" (B,) marks real ones by 1 and padding by 0.
    """
    results = [(_done(step(params, variables, batch)), _done(batch["example_mask"].sum())) for batch in batches]
    results = jax.device_get(results)  # one wait, at the end

    def whole(name: str) -> float:
        parts = [
            metrics[name] if isinstance(metrics[name], Mean) else Mean(np.float64(metrics[name]) * count, count)
            for metrics, count in results
        ]
        return float(jax.tree.map(lambda *sums: np.sum(sums, dtype=np.float64), *parts).value)

    return {name: whole(name) for name in results[0][0]}


def _done(result: PyTree) -> PyTree:
    """Itself, once it is there if virtual devices make it: programs that these run at once may wait for each other."""
    virtual = jax.default_backend() == "cpu" and jax.local_device_count() > 1
    return jax.block_until_ready(result) if virtual else result


def predict(
    step: Callable, params: PyTree, variables: PyTree, batches: Iterable[dict[str, jax.Array]]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the labels (N,) and the class probabilities (N, K) of all real examples, in the split's order.

    Args:
      step: `(params, variables, batch) -> probabilities (B, K)`, jitted.
      params: the parameters to evaluate.
      variables: the untrained collections.
      batches: as for `evaluate`.
    """
    results = parallel.fetch(
        [(_done(step(params, variables, batch)), batch["label"], batch["example_mask"]) for batch in batches]
    )
    real = [mask > 0 for _, _, mask in results]
    labels = np.concatenate([label[keep] for (_, label, _), keep in zip(results, real, strict=True)])
    return labels, np.concatenate([p[keep] for (p, _, _), keep in zip(results, real, strict=True)])


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns counts (K, K): rows are labels, columns predictions.

    Args:
      labels: (N,) integers in [0, K).
      predictions: (N,) integers in [0, K).
      num_classes: K.
    """
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix
