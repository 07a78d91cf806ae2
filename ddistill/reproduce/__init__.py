"""The paper's tables and figures as lists of runs, a store of results, and tables beside the published figures."""

from ddistill.reproduce.runs import Sources, look_up, run_cells
from ddistill.reproduce.store import Judged, Result, Store, recipe_key
from ddistill.reproduce.tables import put_into, render
from ddistill.reproduce.targets import SCALES, TARGETS, Cell, cells_of

__all__ = [
    "SCALES",
    "TARGETS",
    "Cell",
    "Judged",
    "Result",
    "Sources",
    "Store",
    "cells_of",
    "look_up",
    "put_into",
    "recipe_key",
    "render",
    "run_cells",
]
