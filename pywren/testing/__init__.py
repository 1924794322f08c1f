"""A mocked AWS for testing programs that use pywren: no account, no network, but real worker processes.

With pytest, tests take the fixture ``pywren_aws``::

    def test_my_pipeline(pywren_aws):
        pwex = pywren.default_executor()
        assert pywren.get_all_results(pwex.map(my_function, [1, 2, 3])) == [2, 3, 4]

Elsewhere, ``with pywren.testing.mock_aws() as config`` does the same. Needs ``pip install pywren[testing]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pywren.testing._mock_aws import mock_aws

__all__ = ["mock_aws"]


def __getattr__(name: str) -> Any:
    # On first use: pytest imports this package with the plugin at each start, also where no test uses pywren.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pywren.testing._mock_aws import mock_aws

    globals()[name] = mock_aws
    return mock_aws
