"""The engine: one outer loop for every method, and the files of a run."""

from ddistill.engine.observer import Observer
from ddistill.engine.run import Run, distill_data, pool_for, prepare_folder

__all__ = [
    "Observer",
    "Run",
    "distill_data",
    "pool_for",
    "prepare_folder",
]
