"""An empty, mocked account."""

from __future__ import annotations

from collections.abc import Iterator

import accounts
import pytest


@pytest.fixture
def account() -> Iterator[accounts.Account]:
    """An empty, mocked account that records requests and may refuse them."""
    with accounts.mocked_account() as made:
        yield made
