"""Gaps of Python and the operating system: private files, this machine's directory, threads, the end of the program."""
