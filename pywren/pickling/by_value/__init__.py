"""How pickles rebuild functions and classes that the reader cannot import.

These modules serve both directions: what a client sends to its workers, and what workers return. The halves that read
import nothing heavy, because every worker loads them before its first call.
"""
