"""What Python and the operating system lack: private files, pywren's own directory, threads, the program's end."""
