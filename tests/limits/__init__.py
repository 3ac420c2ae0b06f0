"""Checks of the rows of docs/limitations.md, a module for a table or two."""
