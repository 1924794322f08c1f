"""A simulated AWS in virtual time, and the real client on it. Tests of the driver use its functions too."""
