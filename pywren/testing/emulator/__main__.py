"""``python -m pywren.testing.emulator -- CMD …``: run a command under the emulated AWS, and print what it used."""
