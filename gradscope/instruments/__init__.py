"""The hands: whatever touches a network is a context manager that leaves it as found."""
