"""The commands: ``pywren`` and what comes with it."""
