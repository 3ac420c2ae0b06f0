"""Input gradients along paths in input space: the paths, and a pass that carries values and derivatives."""
