"""What Python and the operating system leave to us: private files, threads, the end of the program."""
