"""The parent's side of worker processes: the fork server, the pool of this machine, and its members."""
