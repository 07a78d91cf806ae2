"""Distil a labelled image dataset into a few synthetic images per class, quickly."""

from ddistill import recipes
from ddistill.api import distill, evaluate
from ddistill.config import Recipe
from ddistill.data import load_data
from ddistill.errors import RunError, UserError
from ddistill.synthetic import load_synthetic

__version__ = "0.1.0"

__all__ = [
    "Recipe",
    "RunError",
    "UserError",
    "__version__",
    "distill",
    "evaluate",
    "load_data",
    "load_synthetic",
    "recipes",
]
