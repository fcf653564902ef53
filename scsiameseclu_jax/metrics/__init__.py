"""Scores against known cell types.

Labels are seen here, where they are the task (``tl.classify``, ``tl.transfer_labels``), and where
results are shown; nothing that preprocesses, trains or selects may import this package.
"""

from scsiameseclu_jax.metrics.classification import (
    classification_report,
    classification_scores,
    confusion,
    rejection_curve,
)
from scsiameseclu_jax.metrics.clustering import accuracy, macro_f1, rare_type_recall, scores

__all__ = [
    "accuracy",
    "classification_report",
    "classification_scores",
    "confusion",
    "macro_f1",
    "rare_type_recall",
    "rejection_curve",
    "scores",
]
