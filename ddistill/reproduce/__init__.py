"""The paper's tables and figures as lists of runs, a store of results, and tables beside the published figures."""

from ddistill.analysis import GradientsAtAge
from ddistill.reproduce.estimates import estimate
from ddistill.reproduce.figures import draw, shows_images
from ddistill.reproduce.on_ray import place_of, run_cells_on_ray
from ddistill.reproduce.runs import Sources, look_up, run_cells, with_pictures
from ddistill.reproduce.store import Judged, Result, Store, result_key
from ddistill.reproduce.tables import put_into, render
from ddistill.reproduce.targets import SCALES, TARGETS, Cell, cells_of

__all__ = [
    "SCALES",
    "TARGETS",
    "Cell",
    "GradientsAtAge",
    "Judged",
    "Result",
    "Sources",
    "Store",
    "cells_of",
    "draw",
    "estimate",
    "look_up",
    "place_of",
    "put_into",
    "render",
    "result_key",
    "run_cells",
    "run_cells_on_ray",
    "shows_images",
    "with_pictures",
]
