"""How a process ends when a call raises an exception that nothing catches."""

from __future__ import annotations

import pytest

from pywren.worker.child.after_call import exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(), 0),
        (SystemExit(0), 0),
        (SystemExit(-1), 255),
        (SystemExit(300), 44),
        (SystemExit("text"), 1),
        (GeneratorExit(), 1),
    ],
)
def test_exit_codes_are_pythons(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that ends with an exception has Python's usual exit code."""
    assert exit_code(error) == code
    printed = capsys.readouterr().err
    assert ("text" in printed) == (error.args == ("text",))
    assert ("GeneratorExit" in printed) == isinstance(error, GeneratorExit)
