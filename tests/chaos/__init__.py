"""Maps while things go wrong: no call may be lost.

``python -m tests.chaos`` runs the whole; the thorough tests have a small version of it.

============== =======================================================================================================
module         purpose
============== =======================================================================================================
remains        what a process has: child processes, threads, descriptors, temporary files, memory
trial          one map while things go wrong, and what has become of its calls
scenarios      what goes wrong in each trial
soak           many maps in one process, and whether the process has grown
============== =======================================================================================================
"""
