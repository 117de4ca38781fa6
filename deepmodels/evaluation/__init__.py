"""Evaluation: metrics of a split, predictions, and distances of texts."""

from deepmodels.evaluation.loop import confusion_matrix, evaluate, predict
from deepmodels.evaluation.ngram import NGram
from deepmodels.evaluation.text import bleu, edit_distance, error_rate

__all__ = ["NGram", "bleu", "confusion_matrix", "edit_distance", "error_rate", "evaluate", "predict"]
