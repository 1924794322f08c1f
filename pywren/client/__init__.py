"""The life of calls in the client: staging, invoking, monitoring, and deciding which results to believe."""
