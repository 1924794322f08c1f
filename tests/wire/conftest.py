"""Hypothesis tries few examples: these tests are run with every change."""

from hypothesis import settings

settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")
