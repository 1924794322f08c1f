"""An empty, mocked account."""

from __future__ import annotations

from collections.abc import Iterator

import accounts
import pytest


@pytest.fixture
def account() -> Iterator[accounts.Account]:
    """An empty, mocked account that listens and may refuse."""
    with accounts.mocked_account() as made:
        yield made
