"""Judging a set: the training protocol, repeated runs, scores."""

from ddistill.evaluation.confusion import CONFUSION, Confusion
from ddistill.evaluation.judge import Outcome, Progress
from ddistill.evaluation.protocol import Evaluation, evaluate_set
from ddistill.evaluation.protocols import IDC, OWN, PROTOCOLS, protocol
from ddistill.evaluation.settings import EVALUATION_AUGMENT, EvaluationSettings

__all__ = [
    "CONFUSION",
    "EVALUATION_AUGMENT",
    "IDC",
    "OWN",
    "PROTOCOLS",
    "Confusion",
    "Evaluation",
    "EvaluationSettings",
    "Outcome",
    "Progress",
    "evaluate_set",
    "protocol",
]
