"""A small honest loop that trains the specimens, on all paths or on some, and what it leaves on disk."""

from gradscope.training.arguments import SCHEDULES
from gradscope.training.evaluation import error, predict
from gradscope.training.exact_blocks import exact_blocks
from gradscope.training.fit import COLUMNS, fit
from gradscope.training.path_options import PathOption, Step
from gradscope.training.random_depth import random_depth
from gradscope.training.short_paths import short_paths

__all__ = [
    "COLUMNS",
    "SCHEDULES",
    "PathOption",
    "Step",
    "error",
    "exact_blocks",
    "fit",
    "predict",
    "random_depth",
    "short_paths",
]
