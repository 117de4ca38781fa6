import numpy as np
import pytest

from deepmodels.errors import ConfigError
from deepmodels.evaluation import auroc, detection, threshold

RNG = np.random.default_rng(0)


def test_auroc_is_how_often_an_anomaly_is_above():
    scores, anomalous = RNG.integers(0, 10, 60).astype(float), RNG.random(60) < 0.3
    pairs = scores[anomalous][:, None] - scores[~anomalous][None]
    np.testing.assert_allclose(auroc(scores, anomalous), ((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert auroc(anomalous, anomalous) == 1
    assert auroc(~anomalous, anomalous) == 0
    with pytest.raises(ConfigError, match="both kinds"):
        auroc(scores, np.zeros(60, bool))


@pytest.mark.parity
def test_auroc_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    scores, anomalous = RNG.normal(size=200).round(1), RNG.random(200) < 0.3
    np.testing.assert_allclose(auroc(scores, anomalous), metrics.roc_auc_score(anomalous, scores))


def test_the_threshold_keeps_the_false_alarms():
    usual = RNG.normal(size=1000)
    line = threshold(usual, 0.05)
    assert 0.045 <= (usual > line).mean() <= 0.05
    assert (usual > threshold(usual, 0.0)).sum() == 0
    anomalous = np.array([True, True, False, False])
    found = detection(np.array([9.0, 0.0, 9.0, -9.0]), anomalous, usual)
    assert (found["detected"], found["false_alarms"], found["threshold"]) == (0.5, 0.5, line)
    assert found["auroc"] == (0.5 + 1 + 0 + 1) / 4
    with pytest.raises(ConfigError, match="a share from 0 to 1"):
        threshold(usual, 5)
