"""Training a network on a fixed set: one implementation for the pool, the inner loop and the evaluation."""

from ddistill.training.compilation import CompileMode, compiler_available, maybe_compile
from ddistill.training.loop import Source, Trainer, TrainingSettings, predict_accuracy, step_decay

__all__ = [
    "CompileMode",
    "Source",
    "Trainer",
    "TrainingSettings",
    "compiler_available",
    "maybe_compile",
    "predict_accuracy",
    "step_decay",
]
