"""Values, functions and exceptions as bytes, for client and worker alike."""
