"""An empty, mocked account, and command lines that use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import accounts
import pytest
import yaml
from command_line import runner

from pywren.scripts.pywrencli import cli


class Done(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[accounts.Account]:
    """Return an empty, mocked account that records and may refuse requests, and a home without a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with accounts.mocked_account() as made:
        yield made


@pytest.fixture
def ready(account: accounts.Account) -> accounts.Account:
    """Return the account, with a bucket and everything that stand-alone workers need."""
    account.make_bucket()
    for resource in account.resources().for_standalone:
        for step in resource.plan():
            step.run()
    account.requests.clear()
    return account


@pytest.fixture
def run() -> Callable[..., Done]:
    """Run a command line in this process."""

    def invoke(*arguments: Any, input: str = "", command: Any = cli, env: dict[str, str] | None = None) -> Done:
        result = runner().invoke(command, [str(argument) for argument in arguments], input=input, env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return invoke


@pytest.fixture
def pywren(run: Callable[..., Done], tmp_path: Path) -> Callable[..., Done]:
    """Run a command of pywren with a configuration; keyword arguments change keys in its sections."""

    def invoke(*arguments: Any, input: str = "", **changes: dict[str, Any]) -> Done:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(accounts.configuration(**changes)))
        return run("--filename", path, *arguments, input=input)

    return invoke
