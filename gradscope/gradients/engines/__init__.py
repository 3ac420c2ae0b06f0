"""Ways to run a gated backward: one plain reference, and faster ones that agree with it to rounding."""
