"""The parent's side of worker processes: the fork server, the local pool, and the members of the pool."""
