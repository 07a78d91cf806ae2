"""Judging a set: the training protocol, repeated runs, scores."""

from ddistill.evaluation.judge import Progress
from ddistill.evaluation.protocol import Evaluation, evaluate_set
from ddistill.evaluation.settings import EVALUATION_AUGMENT, EvaluationSettings

__all__ = ["EVALUATION_AUGMENT", "Evaluation", "EvaluationSettings", "Progress", "evaluate_set"]
