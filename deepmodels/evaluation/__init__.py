"""Evaluation: metrics of a split, predictions, anomalies, and distances of texts and of pictures."""

from deepmodels.evaluation.anomaly import auroc, detection, threshold
from deepmodels.evaluation.images import (
    bits_per_dimension,
    frechet_distance,
    kernel_distance,
    precision_recall,
    psnr,
    recognition,
    ssim,
)
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
from deepmodels.evaluation.retrieval import class_embeddings, recall_at, rerank, zero_shot
from deepmodels.evaluation.text import WRITTEN, bleu, edit_distance, error_rate, sequence_accuracy, word_error_rate

__all__ = [
    "WRITTEN",
    "NGram",
    "Question",
    "auroc",
    "bits_per_dimension",
    "bleu",
    "class_embeddings",
    "confusion_matrix",
    "detection",
    "edit_distance",
    "error_rate",
    "evaluate",
    "exact_match",
    "few_shot",
    "frechet_distance",
    "kernel_distance",
    "multiple_choice",
    "perplexity",
    "precision_recall",
    "predict",
    "psnr",
    "recall_at",
    "recognition",
    "rerank",
    "score_continuations",
    "sequence_accuracy",
    "ssim",
    "threshold",
    "word_error_rate",
    "zero_shot",
]
