"""The parts of `gradient_agreement`: what is read off one Gram, where layers stand, and the rows."""
