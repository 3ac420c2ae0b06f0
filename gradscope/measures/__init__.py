"""Tensors in, tensors out: what is computed from gradients, knowing nothing of networks."""
