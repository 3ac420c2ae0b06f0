"""What the analyses sweep over: one specimen in, one frame out; importable by worker processes."""
