"""Functions and classes that the reader cannot import: how a pickle makes them anew.

What is said in the modules of this package holds in both directions: what a client sends to its workers, and what
they return. The readers' halves import nothing heavy, because every worker loads them before its first call.
"""
