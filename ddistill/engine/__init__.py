"""The engine: one outer loop for every method, and the files of a run."""

from ddistill.engine.early_stage import networks_for
from ddistill.engine.plan import InnerStep, OnPaper, Plan, evaluation_costs, on_paper, plan_run, training_costs
from ddistill.engine.run import Resume, Run, Session, distill_data
from ddistill.engine.run_folder import check_folder, check_writable, recorded, source_beside
from ddistill.observer import Observer

__all__ = [
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
    "networks_for",
    "on_paper",
    "plan_run",
    "recorded",
    "source_beside",
    "training_costs",
]
