"""Running a network under many sets of closed branches, with what the sets have in common computed once."""
