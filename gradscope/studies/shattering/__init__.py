"""The parts of `gradient_correlation`: what is heard, rows, the plain twin, theory, and a reading in words."""
