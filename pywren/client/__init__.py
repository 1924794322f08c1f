"""The life of calls on the side that waits for them: staging, invoking, watching, believing."""
