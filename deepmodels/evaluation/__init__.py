"""Evaluation: metrics of a split, predictions, and distances of texts."""

from deepmodels.evaluation.language import (
    Question,
    exact_match,
    few_shot,
    multiple_choice,
    perplexity,
    score_continuations,
)
from deepmodels.evaluation.loop import confusion_matrix, evaluate, predict
from deepmodels.evaluation.ngram import NGram
from deepmodels.evaluation.text import WRITTEN, bleu, edit_distance, error_rate, sequence_accuracy, word_error_rate

__all__ = [
    "WRITTEN",
    "NGram",
    "Question",
    "bleu",
    "confusion_matrix",
    "edit_distance",
    "error_rate",
    "evaluate",
    "exact_match",
    "few_shot",
    "multiple_choice",
    "perplexity",
    "predict",
    "score_continuations",
    "sequence_accuracy",
    "word_error_rate",
]
