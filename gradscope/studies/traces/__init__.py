"""The parts of the studies of input-gradient traces: networks as steps, statistics with references, refinement."""
