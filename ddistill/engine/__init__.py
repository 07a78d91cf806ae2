"""The engine: one outer loop for every method, and the files of a run."""

from ddistill.engine.builder import Builder
from ddistill.engine.plan import InnerStep, OnPaper, Plan, evaluation_costs, on_paper, plan_run, plan_training
from ddistill.engine.run import Run, Session, distill_data
from ddistill.engine.run_folder import Resume, check_folder, check_writable, recorded, source_beside
from ddistill.observer import Observer

__all__ = [
    "Builder",
    "InnerStep",
    "Observer",
    "OnPaper",
    "Plan",
    "Resume",
    "Run",
    "Session",
    "check_folder",
    "check_writable",
    "distill_data",
    "evaluation_costs",
    "on_paper",
    "plan_run",
    "plan_training",
    "recorded",
    "source_beside",
]
