"""The command-line programs: ``pywren``, ``pywren-setup`` and ``pywren-server``."""
