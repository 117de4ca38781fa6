"""Evaluation: metrics of a split, predictions, and distances of texts."""

from deepmodels.evaluation.loop import confusion_matrix, evaluate, predict
from deepmodels.evaluation.text import WRITTEN, bleu, edit_distance, error_rate, exact_match, word_error_rate

__all__ = [
    "WRITTEN",
    "bleu",
    "confusion_matrix",
    "edit_distance",
    "error_rate",
    "evaluate",
    "exact_match",
    "predict",
    "word_error_rate",
]
