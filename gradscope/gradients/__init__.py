"""A Problem in, tensors out: what drives backward passes through a network."""
