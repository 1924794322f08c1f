"""``python -m pywren.testing.emulator -- CMD …``: runs a command under the emulated AWS, and counts its requests."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import click

from pywren.exceptions import EmulatorError, PywrenError
from pywren.testing import _set_up
from pywren.testing.emulator._emulator import Emulator, start
from pywren.testing.emulator._faults import Fault, Faults
from pywren.testing.emulator._settings import Limits, Settings

NOT_FOUND = 127
NOT_EXECUTABLE = 126
_IDLE_SECONDS = 10.0  # how long calls may keep running after the command has ended

_EXECUTOR = "PYWREN_EXECUTOR"
_EPILOG = """
Example: python -m pywren.testing.emulator --memory 512 --packages numpy -- python my_job.py

The exit code is the command's own, 128 + n if signal n ended it, 127 if it was not found, 126 if it could not be
executed, or 1 if the emulated AWS did not start.
"""


@click.command(
    epilog=_EPILOG,
    context_settings={"allow_interspersed_args": False, "show_default": True, "help_option_names": ["-h", "--help"]},
)
@click.option("--memory", default=1536, help="The function's memory in megabytes.")
@click.option("--timeout", default=300, help="The function's time-out in seconds.")
@click.option("--concurrency", default=Limits().concurrency, help="The account's concurrency limit.")
@click.option("--containers", default=Settings().containers, help="How many executions this machine runs at once.")
@click.option("--region", default=Settings().region, help="The region to emulate.")
@click.option(
    "--packages", default="", metavar="NAME,…", help="Installed packages to put into a layer of the function."
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="NAME=VALUE",
    help="Make something go wrong: on a share of the occasions (kill_container=0.1), at most so many times "
    "(kill_container.most=2), at a certain moment (kill_at=start), or for some seconds (s3_latency=0.2). "
    "May be repeated.",
)
@click.option("--seed", default=0, help="The random seed that decides on which occasions faults strike.")
@click.option(
    "--keep-going",
    is_flag=True,
    help="Keep the emulated AWS running after the command until Ctrl-C, so that you can inspect it.",
)
@click.argument("command", nargs=-1, required=True, metavar="-- CMD …")
def main(
    memory: int,
    timeout: int,
    concurrency: int,
    containers: int,
    region: str,
    packages: str,
    faults: Sequence[str],
    seed: int,
    keep_going: bool,
    command: Sequence[str],
) -> None:
    """Run CMD under an emulated AWS: pywren is deployed there, and CMD finds its configuration and credentials.

    CMD sees PYWREN_CONFIG_FILE and the AWS_… variables of the emulated AWS, and none of your own AWS settings. When it
    ends, calls that are still running get 10 seconds to finish. Then a table of its AWS requests is printed to standard
    error.
    """
    if shutil.which(command[0]) is None:
        _refuse(command[0])
    try:
        settings = Settings.decode(
            {"containers": containers, "region": region, "limits": Limits(concurrency=concurrency)}
        )
        wanted = _faults(faults, seed)
        with closing(start(settings)) as emulator:
            config = emulator.deploy(
                memory=memory, timeout=timeout, packages=[name.strip() for name in packages.split(",") if name.strip()]
            )
            emulator.set_faults(wanted)
            before = emulator.counters()
            with _written(config) as path:
                variables = {**emulator.environment, "PYWREN_CONFIG_FILE": path}
                code = _run_command(command, _environment(variables))
                _wait_idle(emulator)
                click.echo(str(emulator.counters() - before), err=True)
                if keep_going:
                    _wait_for_interrupt(variables)
    except (PywrenError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    sys.exit(code)


def _refuse(program: str) -> None:
    """Report why a program cannot run, and exit, with the message and exit code that a shell would use."""
    exists = os.path.dirname(program) and Path(program).exists()
    click.echo(f"{program}: {'cannot be executed' if exists else 'command not found'}", err=True)
    sys.exit(NOT_EXECUTABLE if exists else NOT_FOUND)


def _faults(given: Sequence[str], seed: int) -> Faults:
    """Return the faults that the options describe. ``NAME=VALUE`` for a fault sets the field ``share`` of the fault."""
    fields: dict[str, Any] = {"seed": seed}
    for text in given:
        path, separator, value = text.partition("=")
        if not separator:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--fault")
        name, _, field = path.partition(".")
        if isinstance(getattr(Faults(), name, None), Fault):
            fields.setdefault(name, {})[field or "share"] = _number(value)
        else:
            fields[path] = _number(value)
    return Faults.decode(fields)


def _number(text: str) -> float | str:
    """Return a text as a number, or unchanged if it is not a number; ``Faults`` checks the values."""
    try:
        return float(text)
    except ValueError:
        return text


@contextmanager
def _written(config: Mapping[str, Any]) -> Iterator[str]:
    """Write a configuration to a temporary file, and yield its path."""
    import yaml

    with tempfile.TemporaryDirectory(prefix="pywren-emulated-") as directory:
        path = Path(directory) / "pywren_config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        yield str(path)


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the command's environment: this process's variables without those in ``_elsewhere``, and ``variables``."""
    executor = os.environ.get(_EXECUTOR)
    if executor:
        click.echo(f"{_EXECUTOR}={executor} is unset for the command: its calls go to the emulated Lambda", err=True)
    return {**{name: value for name, value in os.environ.items() if name not in _elsewhere()}, **variables}


def _elsewhere() -> set[str]:
    """Return the names of this process's variables that would lead the command away from the emulated AWS."""
    return (set(os.environ) - set(_set_up.without_aws(os.environ))) | ({_EXECUTOR} & set(os.environ))


def _wait_idle(emulator: Emulator) -> None:
    """Wait briefly for running calls to finish, so that they are counted; Ctrl-C ends the wait."""
    with contextlib.suppress(EmulatorError, KeyboardInterrupt):
        emulator.wait_idle(timeout=_IDLE_SECONDS)


def _run_command(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a command and wait until it ends. Let the command handle Ctrl-C, and forward SIGTERM and SIGHUP to it."""
    with ExitStack() as stack:
        stack.enter_context(_handled(signal.SIGINT, lambda *_: None))
        try:
            process = stack.enter_context(subprocess.Popen(command, env=variables))
        except OSError as error:  # the file exists but is not a program, or the interpreter that it names is missing
            click.echo(f"{command[0]}: cannot be executed: {error.strerror}", err=True)
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        for number in (signal.SIGTERM, signal.SIGHUP):
            stack.enter_context(_handled(number, lambda number, _: process.send_signal(number)))
        code = process.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _handled(number: int, handler: Any) -> Iterator[None]:
    saved = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, saved)


def _wait_for_interrupt(variables: Mapping[str, str]) -> None:
    """Print the shell commands that point a shell at the emulated AWS, and wait for Ctrl-C."""
    try:
        for name in sorted(_elsewhere() - set(variables)):
            click.echo(f"unset {name}", err=True)
        for name, value in variables.items():
            click.echo(f"export {name}={shlex.quote(value)}", err=True)
        click.echo("the emulated AWS keeps running until Ctrl-C", err=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main(prog_name="python -m pywren.testing.emulator")
