"""What the client does with calls: it stages, invokes and monitors them, and decides which results to believe."""
