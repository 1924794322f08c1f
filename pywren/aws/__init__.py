"""Sends requests to AWS: sessions, credentials, retries, and one table of errors."""
