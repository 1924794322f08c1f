"""Commands that run in the test's own process."""

from __future__ import annotations

import inspect

from click.testing import CliRunner


def runner() -> CliRunner:
    """Return a runner that keeps stdout and stderr apart, as click does by itself since 8.2."""
    asked = "mix_stderr" in inspect.signature(CliRunner).parameters
    return CliRunner(mix_stderr=False) if asked else CliRunner()
