"""The parts of the studies of path lengths: how paths are counted, sampled, measured and estimated."""
