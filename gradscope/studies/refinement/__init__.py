"""The parts of the refinement study: its passes, its averages, its rows."""
