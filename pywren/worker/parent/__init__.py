"""The side that holds worker processes: the fork server, the pool of this machine, its members."""
