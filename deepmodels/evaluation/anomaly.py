"""How well a score tells the unusual from the usual, and where to draw the line."""

import numpy as np

from deepmodels.errors import ConfigError


def auroc(scores: np.ndarray, anomalous: np.ndarray) -> float:
    """Returns the area under the ROC curve: how often an anomaly scores above a usual example, a tie counting half.

    Hanley & McNeil (1982), doi:10.1148/radiology.143.1.7063747.

    Args:
      scores: (N,) numbers, higher for what is more unusual.
      anomalous: (N,) bools.

    Raises:
      ConfigError: there isn't one of each kind at least, or a score is missing.
    """
    scores, anomalous = np.asarray(scores, np.float64), np.asarray(anomalous, bool)
    count, others = int(anomalous.sum()), int((~anomalous).sum())
    if not count or not others or scores.shape != anomalous.shape:
        raise ConfigError(
            f"auroc: expected a score of each example, and both kinds, got {scores.shape}, {count} anomalies"
        )
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # of equal scores, the mean of theirs
    return float((ranks[anomalous].sum() - count * (count + 1) / 2) / (count * others))


def threshold(usual: np.ndarray, false_alarms: float = 0.05) -> float:
    """Returns the score above which lies at most that share of usual examples, which nothing was trained on.

    Args:
      usual: (N,) their scores.
      false_alarms: a share, 0 to 1.

    Raises:
      ConfigError: there are no scores, or the share isn't one.
    """
    if not len(usual) or not 0 <= false_alarms <= 1:
        raise ConfigError(f"threshold: expected scores and a share from 0 to 1, got {len(usual)} and {false_alarms}")
    return float(np.quantile(np.asarray(usual, np.float64), 1 - false_alarms, method="higher"))


def detection(
    scores: np.ndarray, anomalous: np.ndarray, usual: np.ndarray, false_alarms: float = 0.05
) -> dict[str, float]:
    """Returns "auroc" and "threshold", and at that threshold "detected", a share of the anomalies, and "false_alarms".

    Args:
      scores: (N,) of a test set.
      anomalous: (N,) bools.
      usual: (M,) scores of other usual examples, from which the threshold comes.
      false_alarms: share of these above it.
    """
    line = threshold(usual, false_alarms)
    alarm = np.asarray(scores) > line
    return {
        "auroc": auroc(scores, anomalous),
        "threshold": line,
        "detected": float(alarm[anomalous].mean()),
        "false_alarms": float(alarm[~anomalous].mean()),
    }
