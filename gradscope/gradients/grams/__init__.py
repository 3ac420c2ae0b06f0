"""B x B Gram matrices of per-example gradients, layer by layer, from one backward pass."""
