"""What drives a network over conditions: one condition in, one tidy frame out."""
