"""Training a network on a fixed set: one implementation for the pool, the inner loop and the evaluation."""

from ddistill.training.compilation import CompileMode, compiler_available, maybe_compile
from ddistill.training.epochs import CONSTANT, train_epochs
from ddistill.training.hot_path import EAGER, HotPath, Work, choose_hot_path, training_work
from ddistill.training.precision import Forward, Precision, Resolved, trial_fault
from ddistill.training.trainer import (
    Falls,
    Trainer,
    TrainingDraws,
    TrainingSettings,
    predict_accuracy,
    predict_labels,
    thirds_and_sixths,
)
from ddistill.training.unfinished import Safety, Unfinished

__all__ = [
    "CONSTANT",
    "EAGER",
    "CompileMode",
    "Falls",
    "Forward",
    "HotPath",
    "Precision",
    "Resolved",
    "Safety",
    "Trainer",
    "TrainingDraws",
    "TrainingSettings",
    "Unfinished",
    "Work",
    "choose_hot_path",
    "compiler_available",
    "maybe_compile",
    "predict_accuracy",
    "predict_labels",
    "thirds_and_sixths",
    "train_epochs",
    "training_work",
    "trial_fault",
]
