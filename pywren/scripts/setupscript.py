"""The command ``pywren-setup``: asks a few questions, sets pywren up in an AWS account, and makes a first call."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import click

from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.cloud.names import INSTANCE_PROFILE_DEFAULT, Names, bucket_name, suffixed
from pywren.cloud.plan import Resource
from pywren.cloud.resources import Resources
from pywren.exceptions import CallLostError, ConfigError, PywrenError
from pywren.scripts._console import Account, create, dry_run_option, one_line_errors, open_account, option
from pywren.scripts._new_config import config_text, write_config
from pywren.scripts.pywrencli import call_hello, new_config_path

_PATIENCE = (30.0, 30.0, 60.0)
"""Seconds to wait for the test function, for each attempt."""


@click.command()
@dry_run_option
@option("suffix", default="", show_default=False, help="Text to append to the proposed names.")
@option("yes", is_flag=True, help="Accept every default without asking.")
def interactive_setup(dry_run: bool, suffix: str, yes: bool) -> None:
    """Set pywren up on AWS Lambda: create a configuration file, a bucket, a role and the function."""
    with one_line_errors():
        click.echo("Sets pywren up on AWS Lambda. Press Enter to accept the default in brackets.")
        questions = Questions(silent=yes)
        region = _ask_region(questions)
        with closing(AWS(region)) as aws:
            account_id = _account_id(aws, dry_run)
            proposed = _defaults(region, account_id, suffix)
            path, keep = _ask_file(questions, _proposed_file(proposed, suffix))
            if keep:
                config = wrenconfig.load(path)
                _report_kept_file(path, config, proposed, suffix)
                _set_up(config, path, account_id, standalone=False, dry_run=dry_run)
                return
            answers = _ask_names(questions, proposed, aws)
        if not dry_run:
            write_config(path, answers.config_text(), force=True)
            click.echo(f"new configuration written to {path}")
        _set_up(answers.config(), path, account_id, standalone=answers.standalone, dry_run=dry_run)


class Questions:
    """Asks the user. Enter accepts the default; when the input ends, this and all later questions get their defaults.

    Args:
        silent: accept every default without asking.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self.ended = silent

    def text(self, question: str, default: str) -> str:
        """Ask for text, and return the answer."""
        prompt = f"{question} [{default}]: "
        if not self.ended:
            try:
                return input(prompt).strip() or default
            except EOFError:
                self.ended = True
                click.echo(default)
                return default
        click.echo(prompt + default)
        return default

    def valid(self, question: str, default: str, check: Callable[[str], None]) -> str:
        """Ask for text until the answer is valid, and return it.

        Args:
            question: the question.
            default: the answer if the user presses Enter.
            check: raises a ``PywrenError`` if the answer is not valid.

        Raises:
            PywrenError: the default is not valid, and the input has ended.
        """
        while True:
            answer = self.text(question, default)
            try:
                check(answer)
            except PywrenError as error:
                if self.ended and answer == default:
                    raise
                click.echo(" ".join(str(error).split()))
            else:
                return answer

    def confirm(self, question: str, default: bool) -> bool:
        """Ask a yes-or-no question, and return the answer."""
        while True:
            answer = self.text(f"{question} (y/n)", "y" if default else "n").lower()
            if answer in ("y", "yes", "n", "no"):
                return answer.startswith("y")
            click.echo("answer y or n")


@dataclass(frozen=True)
class Answers:
    """The user's choices.

    Args:
        region: the region of the function and the bucket.
        account_id: the 12 digits of the account; ``None`` if they are not known.
        bucket: the bucket for the data of calls.
        prefix: the key prefix in the bucket.
        role: the role of the function.
        function: the name of the function.
        queue: the queue of stand-alone workers.
        instances: the name of stand-alone workers and of their instance profile.
        standalone: whether to create the queue and the instance profile.
    """

    region: str
    account_id: str | None
    bucket: str
    prefix: str = wrenconfig.AWS_S3_PREFIX_DEFAULT
    role: str = wrenconfig.AWS_LAMBDA_ROLE_DEFAULT
    function: str = wrenconfig.AWS_LAMBDA_FUNCTION_NAME_DEFAULT
    queue: str = wrenconfig.AWS_SQS_QUEUE_DEFAULT
    instances: str = INSTANCE_PROFILE_DEFAULT
    standalone: bool = False

    def config_text(self) -> str:
        """Return the text of the configuration file."""
        return config_text(
            aws_region=self.region,
            bucket_name=self.bucket,
            bucket_prefix=self.prefix,
            lambda_role=self.role,
            function_name=self.function,
            sqs_queue=self.queue,
            standalone_name=self.instances,
            account_id=self.account_id,
        )

    def config(self) -> wrenconfig.Config:
        """Return the configuration as programs would load it."""
        import yaml

        config: wrenconfig.Config = yaml.safe_load(self.config_text())
        return wrenconfig.patch_storage_config(config)


# -- the questions, in 0.4's order ---------------------------------------------------------------------------


def _ask_region(questions: Questions) -> str:
    aws = AWS()
    default = aws.configured_region() or wrenconfig.AWS_REGION_DEFAULT
    known = aws.regions()

    def check(region: str) -> None:
        if region not in known:
            raise ConfigError(f"AWS has no region {region}; choose one of {', '.join(sorted(known))}")

    return questions.valid("AWS region", default, check)


def _proposed_file(proposed: Answers, suffix: str) -> Path:
    """Return the proposed path of the configuration file. A second set-up gets its own file next to the first one."""
    path = new_config_path(None)
    if not suffix or not path.exists() or _function_of(path) == proposed.function:
        return path
    return path.with_name(f"{path.name}_{re.sub('[^A-Za-z0-9_.-]', '-', suffix)[:_LONGEST_ENDING]}")


_LONGEST_ENDING = 100  # in characters; most file systems allow names of 255 bytes


def _function_of(path: Path) -> str | None:
    try:
        return str(wrenconfig.setting(wrenconfig.load(path), "lambda.function_name"))
    except ConfigError:
        return None


def _report_kept_file(path: Path, config: wrenconfig.Config, proposed: Answers, suffix: str) -> None:
    click.echo(f"Keeping {path} unchanged, and setting up the resources that it names.")
    names = Names.of(config, "")
    if names.region != proposed.region or (suffix and names.function != proposed.function):
        click.echo(
            f"The file is for the function {names.function} in {names.region}, not for {proposed.function} in "
            f"{proposed.region}: for a second set-up choose another file, here or with PYWREN_CONFIG_FILE",
            err=True,
        )


def _ask_file(questions: Questions, proposed: Path) -> tuple[Path, bool]:
    """Return the path of the configuration file, and whether to keep the file that exists there."""

    def check(answer: str) -> None:
        path = Path(answer).expanduser()
        if not path.parent.is_dir():
            raise ConfigError(f"there is no directory {path.parent}: create it, or choose another file")
        if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ConfigError(f"cannot write {path}: choose another file")

    path = Path(questions.valid("Configuration file", str(proposed), check)).expanduser()
    exists = path.exists()
    return path, exists and not questions.confirm(f"{path} exists. Overwrite it?", default=False)


def _ask_names(questions: Questions, answers: Answers, aws: AWS) -> Answers:
    answers = replace(answers, bucket=_ask_bucket(questions, answers, aws))
    answers = replace(answers, prefix=questions.valid("Key prefix in the bucket", answers.prefix, _check_prefix))
    if questions.confirm("Advanced settings?", default=False):
        answers = replace(
            answers,
            role=questions.valid("Role of the function", answers.role, _check("account", "aws_lambda_role")),
            function=questions.valid("Name of the function", answers.function, _check("lambda", "function_name")),
        )
    return replace(answers, standalone=questions.confirm("Stand-alone workers on EC2, too?", default=False))


def _defaults(region: str, account_id: str | None, suffix: str) -> Answers:
    plain = Answers(region, account_id, bucket=bucket_name("pywren", account_id or _user(), region, suffix))
    return replace(
        plain,
        role=suffixed("account.aws_lambda_role", plain.role, "_", suffix),
        function=suffixed("lambda.function_name", plain.function, "_", suffix),
        queue=suffixed("standalone.sqs_queue_name", plain.queue, "-", suffix),
        instances=suffixed("standalone.instance_profile_name", plain.instances, "-", suffix),
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # this user has no name; the error depends on the version of Python
        return "me"


def _ask_bucket(questions: Questions, answers: Answers, aws: AWS) -> str:
    while True:
        missing: list[bool] = []

        def check(bucket: str, missing: list[bool] = missing) -> None:
            missing[:] = [_is_bucket_missing(replace(answers, bucket=bucket), aws)]

        bucket = questions.valid("Bucket for calls", answers.bucket, check)
        if not missing[0] or questions.confirm(f"There is no bucket {bucket}. Create it?", default=True):
            return bucket


def _is_bucket_missing(answers: Answers, aws: AWS) -> bool:
    """Tell whether there is no such bucket; False if a dry run has no credentials to look with.

    Raises:
        ConfigError: the bucket's name is not valid, or the bucket is in another region.
        DeploymentError: the bucket belongs to somebody else.
    """
    config = answers.config()
    wrenconfig.validate(config, "these answers")
    Names.of(config, "")
    if answers.account_id is None:
        return False
    return not Resources(config, aws, account_id=answers.account_id).bucket.exists()


def _check(section: str, key: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        base = {"account": {"aws_region": "us-west-2"}, "s3": {"bucket": "any"}}
        Names.of({**base, section: {**base.get(section, {}), key: value}}, "")

    return check


_check_prefix = _check("s3", "pywren_prefix")


def _account_id(aws: AWS, dry_run: bool) -> str | None:
    try:
        return aws.account_id()
    except ConfigError as error:
        if not dry_run:
            raise
        _say_not_checked(error)
        return None


def _say_not_checked(error: ConfigError) -> None:
    click.echo(f"AWS was not checked: {' '.join(str(error).split())}", err=True)


# -- setting up ----------------------------------------------------------------------------------------------


def _set_up(config: wrenconfig.Config, path: Path, account_id: str | None, *, standalone: bool, dry_run: bool) -> None:
    names = Names.of(config, "")
    more = f", the queue {names.queue} and the instance profile {names.instance_profile}" if standalone else ""
    click.echo(
        f"This creates, in {names.region} and unless they exist, the bucket {names.bucket}, the role {names.role}, the "
        f"log group {names.log_group}, the function {names.function}{more}. None of these costs anything until used."
    )
    if account_id is None:
        return  # of a dry run, which has said why AWS cannot be checked
    try:
        with open_account(config) as account:
            create(_wanted(account, standalone), dry_run=dry_run)
    except ConfigError as error:
        if not dry_run:
            raise
        _say_not_checked(error)
        return
    if not dry_run:
        _try_out(config, path)
        if standalone:
            click.echo("\n`pywren standalone launch_instances` starts a worker on EC2; you pay for EC2 while it runs.")
            click.echo("pywren.standalone_executor() sends it calls.")


def _wanted(account: Account, standalone: bool) -> list[Resource]:
    resources = account.resources
    return [*resources.for_lambda, *(resources.for_standalone if standalone else ())]


def _call_until_the_role_is_known(config: wrenconfig.Config) -> str:
    """Return the result of the test function.

    IAM is eventually consistent, so the first calls with a new role may be lost; repeat them until one succeeds.
    """
    for patience in _PATIENCE[:-1]:
        try:
            return call_hello(config, patience)
        except (CallLostError, click.ClickException) as error:
            click.echo(f"not ready yet ({' '.join(str(error).split())}); trying again", err=True)
    return call_hello(config, _PATIENCE[-1])


def _try_out(config: wrenconfig.Config, path: Path) -> None:
    click.echo("Testing the function...")
    click.echo(f"function returned: {_call_until_the_role_is_known(config)}")
    if path.absolute() != Path(wrenconfig.get_default_home_filename()):
        click.echo(f"For programs to find {path}, set PYWREN_CONFIG_FILE={path}")
    click.echo("Ready. Paste this into Python:\n")
    click.echo("    import pywren")
    click.echo("    print(pywren.get_all_results(pywren.default_executor().map(lambda x: x + 1, range(10))))")


if __name__ == "__main__":
    interactive_setup()
