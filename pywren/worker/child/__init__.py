"""The program of a worker process, which runs the calls."""
