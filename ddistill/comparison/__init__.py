"""Whether distilling pays: distilled sets beside chosen real images and all of them, under one protocol."""

from ddistill.comparison.budget import Division, Measured, divide
from ddistill.comparison.run import Candidates, Wanted, check_place, compare_data
from ddistill.comparison.table import Comparison, Row, verdict

__all__ = [
    "Candidates",
    "Comparison",
    "Division",
    "Measured",
    "Row",
    "Wanted",
    "check_place",
    "compare_data",
    "divide",
    "verdict",
]
