"""Runs the user's functions: the handler, the child processes that it starts, and the local pool of processes."""
