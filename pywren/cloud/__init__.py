"""Manages pywren's resources in an AWS account: creation and deletion, policies, runtimes, logs and diagnosis."""
