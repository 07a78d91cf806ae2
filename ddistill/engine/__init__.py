"""The engine: one outer loop for every method, and the files of a run."""

from ddistill.engine.folder import check_folder
from ddistill.engine.plan import Plan, plan_run, training_costs
from ddistill.engine.run import Run, distill_data, pool_for, trajectories_for
from ddistill.observer import Observer

__all__ = [
    "Observer",
    "Plan",
    "Run",
    "check_folder",
    "distill_data",
    "plan_run",
    "pool_for",
    "training_costs",
    "trajectories_for",
]
