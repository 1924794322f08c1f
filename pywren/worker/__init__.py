"""What runs the user's functions: the handler, the children it starts, and the pool of this machine."""
