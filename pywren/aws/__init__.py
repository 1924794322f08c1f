"""Requests to AWS: sessions, credentials, patience, and one table of errors."""
