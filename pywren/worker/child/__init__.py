"""The side that runs the call: the program of a worker process."""
