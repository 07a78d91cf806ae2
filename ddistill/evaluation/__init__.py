"""Judging a set: the training protocol, repeated runs, scores."""

from ddistill.evaluation.protocol import EVALUATION_AUGMENT, Evaluation, EvaluationSettings, evaluate_set

__all__ = ["EVALUATION_AUGMENT", "Evaluation", "EvaluationSettings", "evaluate_set"]
