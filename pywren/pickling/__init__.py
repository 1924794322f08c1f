"""Values, functions and exceptions as bytes, on the client and on the worker.

``packed`` is the way in. The modules import each other in one direction: ``format``, ``mentions``, ``plain_values`` and
``remote_errors`` at the bottom, then ``by_value`` and ``pickler``, ``packed``, ``packed_exceptions``,
``finished_futures``, and ``arguments`` on top.
"""
