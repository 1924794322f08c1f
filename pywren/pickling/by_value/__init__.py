"""How pickles rebuild functions and classes that the reader cannot import.

These modules serve both directions: what a client sends to its workers, and what workers return. The code that reads
pickles imports nothing heavy, because every worker loads it before its first call.
"""
