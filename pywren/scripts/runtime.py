"""The commands ``pywren runtime …``: they build, list and delete runtimes, which give workers your own packages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.cloud import runtime_builder
from pywren.cloud._config_file import change_section, section_text
from pywren.cloud.runtime_builder import Built, Disk, Target
from pywren.cloud.runtime_store import RuntimeStore
from pywren.exceptions import ConfigError
from pywren.scripts._console import NO_CONFIGURATION, confirm, dry_run_option, yes_option
from pywren.version import PYTHON

_PACKAGES_SHOWN = 6
_KEYS = ("s3_bucket", "s3_key", "sha256")


@click.group()
def runtime() -> None:
    """Build and manage runtimes, which give the workers your own packages."""


@runtime.command("build")
@click.option(
    "-r",
    "--requirements",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A requirements file for pip; may be repeated.",
)
@click.option("--from-env", is_flag=True, help="Use the packages installed here, in the same versions if possible.")
@click.option(
    "--from-prefix",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Copy a virtual or conda environment as it is; it must fit the function's system.",
)
@click.option(
    "--python",
    type=click.Choice(sorted(wrenconfig.default_runtime)),
    help="The function's Python.  [default: this one]",
)
@click.option(
    "--arch",
    type=click.Choice(sorted(runtime_builder.ARCHITECTURES)),
    help="The function's architecture.  [default: from the configuration]",
)
@click.option("--bucket", help="Store the runtime in this bucket, and print what to write into a configuration.")
@click.option("--prefix", help="The key prefix in the bucket.  [default: from the configuration]")
@dry_run_option
@click.pass_context
def build(
    ctx: click.Context,
    requirements: tuple[Path, ...],
    from_env: bool,
    from_prefix: Path | None,
    python: str | None,
    arch: str | None,
    bucket: str | None,
    prefix: str | None,
    dry_run: bool,
) -> None:
    """Build a runtime for the function, upload it, and add it to the configuration."""
    if [bool(requirements), from_env, from_prefix is not None].count(True) != 1:
        raise click.UsageError("choose the contents: give one of -r FILE, --from-env and --from-prefix DIRECTORY")
    filename, config = _configuration(ctx, needed=bucket is None)
    target = Target(python or PYTHON, arch or wrenconfig.setting(config, "lambda.architecture"))
    with _store(config, bucket, prefix) as store, tempfile.TemporaryDirectory(prefix="pywren-runtime-") as directory:
        built = _build(requirements, from_prefix, target, Path(directory))
        click.echo(f"runtime {built}")
        runtime_builder.check_fits(built, lambda: _disk(config))
        _keep(built, store, None if bucket else filename, dry_run)
    if target.python != PYTHON:
        click.echo(
            f"only programs on Python {target.python} can use this runtime; this command runs on Python {PYTHON}"
        )
    if target.arch != wrenconfig.setting(config, "lambda.architecture"):
        click.echo(
            f"only functions on {target.arch} can use this runtime: set `lambda: architecture` to {target.arch} in the "
            "configuration and run `pywren deploy_lambda`"
        )


def _disk(config: Mapping[str, Any]) -> Disk:
    if not config:
        return Disk.configured(config)
    aws = AWS(wrenconfig.setting(config, "account.aws_region"))
    try:
        return Disk.of_function(config, aws)
    finally:
        aws.close()


def _keep(built: Built, store: RuntimeStore, filename: str | None, dry_run: bool) -> None:
    """Upload a runtime, and add the runtime to the configuration."""
    section = store.section(built)
    place = f"s3://{section['s3_bucket']}/{section['s3_key']}"
    if dry_run:
        click.echo(f"already stored: {place}" if store.holds(built) else f"would upload to {place}")
        if filename is not None:
            click.echo(f"would write into {filename}:\n{section_text('runtime', section)}", nl=False)
        return
    click.echo(f"{'uploaded to' if store.upload(built) else 'already stored:'} {place}")
    _record(filename, section)


def _record(filename: str | None, section: Mapping[str, str | None]) -> None:
    """Add a runtime to the configuration; if the file cannot be changed, print the lines to add."""
    told = f"write this into the configuration:\n{section_text('runtime', section)}"
    if filename is None:
        click.echo(told, nl=False)
        return
    try:
        change_section(filename, "runtime", section)
    except ConfigError:
        click.echo(told, nl=False)
        raise
    click.echo(f"written into {filename}")


def _build(requirements: tuple[Path, ...], from_prefix: Path | None, target: Target, directory: Path) -> Built:
    if from_prefix is not None:
        return runtime_builder.build_from_prefix(from_prefix, target, directory, click.echo)
    if requirements:
        return runtime_builder.build_from_requirements(requirements, target, directory, click.echo)
    return runtime_builder.build_from_environment(target, directory, click.echo)


@runtime.command("list")
@click.pass_context
def list_runtimes(ctx: click.Context) -> None:
    """List the runtimes in the bucket. A star marks the runtime in use."""
    _, config = _configuration(ctx)
    with _store(config) as store:
        stored = store.list()
        if not stored:
            click.echo(f"there is no runtime in s3://{store.bucket}/{store.folder}")
        for item in stored:
            mark = "*" if _in_use(config, store.bucket, item.key) else " "
            click.echo(f"{mark} {item.name}  {_description(item.meta)}")


@runtime.command("delete")
@click.argument("name")
@click.option(
    "--force",
    is_flag=True,
    help="Delete the runtime even if the configuration uses it, and remove it from the configuration.",
)
@dry_run_option
@yes_option
@click.pass_context
def delete(ctx: click.Context, name: str, force: bool, dry_run: bool, yes: bool) -> None:
    """Delete a runtime from the bucket."""
    filename, config = _configuration(ctx)
    with _store(config) as store:
        item = store.find(name)
        in_use = _in_use(config, store.bucket, item.key)
        if in_use and not force:
            raise click.ClickException(
                f"{item.name} is in use: the `runtime` section of {filename} names it. Build another runtime first, or "
                "delete this one with --force, which also removes it from the configuration"
            )
        changes = [f"would remove it from {filename}"] * in_use + [f"would delete {item.name}"]
        if dry_run:
            click.echo("\n".join(changes))
            return
        confirm(changes, yes)
        if in_use:
            change_section(str(filename), "runtime", dict.fromkeys(_KEYS))
            click.echo(f"removed from {filename}")
        store.delete(item)
    click.echo(f"deleted {item.name}")


# -- helpers -------------------------------------------------------------------------------------------------


def _configuration(ctx: click.Context, *, needed: bool = True) -> tuple[str | None, Mapping[str, Any]]:
    filename = ctx.find_root().params.get("filename") or wrenconfig.get_default_config_filename()
    if filename is not None:
        return str(filename), wrenconfig.load(filename)
    if needed:
        raise click.ClickException(f"{NO_CONFIGURATION}, or build with --bucket NAME")
    return None, {}


@contextmanager
def _store(config: Mapping[str, Any], bucket: str | None = None, prefix: str | None = None) -> Iterator[RuntimeStore]:
    where = prefix if prefix is not None else wrenconfig.setting(config, "s3.pywren_prefix")
    bucket = bucket or wrenconfig.require(config, "s3.bucket")
    store = RuntimeStore(bucket, where, wrenconfig.setting(config, "account.aws_region"))
    try:
        yield store
    finally:
        store.close()


def _in_use(config: Mapping[str, Any], bucket: str, key: str) -> bool:
    section = config.get("runtime") or {}
    return bool((section.get("s3_bucket"), section.get("s3_key")) == (bucket, key))


def _description(meta: Mapping[str, Any]) -> str:
    if not meta:
        return "incomplete: its upload was interrupted; build it again, or delete it"
    packages = [f"{name} {version}" for name, version in meta.get("pkg_ver_list", ())]
    shown = ", ".join(packages[:_PACKAGES_SHOWN])
    more = f", and {len(packages) - _PACKAGES_SHOWN} more" if len(packages) > _PACKAGES_SHOWN else ""
    return f"{meta.get('size', 0) / 1e6:,.1f} MB  {shown}{more}".rstrip()
