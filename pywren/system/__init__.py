"""Helpers around Python and the operating system: private files, pywren's directory, threads, the program's end."""
