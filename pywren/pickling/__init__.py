"""Converts values, functions and exceptions to bytes and back, on the client and on the worker.

``packed`` is the entry point. The modules import each other in one direction only: ``format``, ``mentions``,
``plain_values`` and ``remote_errors`` are at the bottom; then come ``by_value`` and ``pickler``, ``packed``,
``packed_exceptions``, ``finished_futures``, and ``arguments`` on top.
"""
