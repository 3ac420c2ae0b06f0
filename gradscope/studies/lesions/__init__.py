"""The parts of lesion studies: what is closed, how it is run, what is read off and estimated."""
