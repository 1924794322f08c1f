"""Requests to AWS: sessions, credentials, retries, and one table of errors."""
