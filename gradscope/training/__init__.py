"""A small honest loop that trains the specimens, and what it leaves on disk."""

from gradscope.training.evaluation import error, predict
from gradscope.training.fit import COLUMNS, SCHEDULES, fit

__all__ = ["COLUMNS", "SCHEDULES", "error", "fit", "predict"]
