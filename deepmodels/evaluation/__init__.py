"""Evaluation: metrics of a split, and predictions."""

from deepmodels.evaluation.loop import confusion_matrix, evaluate, predict

__all__ = ["confusion_matrix", "evaluate", "predict"]
