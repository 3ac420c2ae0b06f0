"""The parts of the studies of curvature: the gradient, extreme eigenvalues, what is read off them, rows."""
