"""Evaluation: metrics of a split, predictions, anomalies, and distances of texts and of pictures."""

from deepmodels.evaluation.anomaly import auroc, detection, threshold
from deepmodels.evaluation.images import (
    bits_per_dimension,
    frechet_distance,
    kernel_distance,
    precision_recall,
    psnr,
    ssim,
)
from deepmodels.evaluation.loop import confusion_matrix, evaluate, predict
from deepmodels.evaluation.text import bleu, edit_distance, error_rate

__all__ = [
    "auroc",
    "bits_per_dimension",
    "bleu",
    "confusion_matrix",
    "detection",
    "edit_distance",
    "error_rate",
    "evaluate",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
    "predict",
    "psnr",
    "ssim",
    "threshold",
]
