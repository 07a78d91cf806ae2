"""The paper's tables and figures as lists of runs, a store of results, and tables beside the published figures."""

from ddistill.analysis import GradientsAtAge
from ddistill.reproduce.estimates import estimate
from ddistill.reproduce.figures import draw, shows_images
from ddistill.reproduce.in_processes import run_cells_in_processes
from ddistill.reproduce.on_ray import place_of, run_cells_on_ray
from ddistill.reproduce.runs import DataSources, look_up, run_cells, with_pictures
from ddistill.reproduce.store import Judged, Result, Store, result_key
from ddistill.reproduce.tables import put_into, render
from ddistill.reproduce.targets import SCALES, TARGETS, Cell, cells_of
from ddistill.reproduce.verify import HEADERS, RULE, Figure, Verified, figures, verified, what_was_verified_where

__all__ = [
    "HEADERS",
    "RULE",
    "SCALES",
    "TARGETS",
    "Cell",
    "DataSources",
    "Figure",
    "GradientsAtAge",
    "Judged",
    "Result",
    "Store",
    "Verified",
    "cells_of",
    "draw",
    "estimate",
    "figures",
    "look_up",
    "place_of",
    "put_into",
    "render",
    "result_key",
    "run_cells",
    "run_cells_in_processes",
    "run_cells_on_ray",
    "shows_images",
    "verified",
    "what_was_verified_where",
    "with_pictures",
]
