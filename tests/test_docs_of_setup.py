"""docs/iam.md, docs/setup.md and docs/standalone.md match the policies, the commands and the configuration."""

import re
from pathlib import Path

import pytest

from pywren import wrenconfig
from pywren.cloud import policies
from pywren.cloud.names import Names
from pywren.scripts.pywrencli import cli

DOCS = Path(__file__).parent.parent / "docs"
NAMES = Names(
    region="us-west-2",
    account_id="123456789012",
    bucket="b",
    prefix="p",
    role="r",
    function="f",
    queue="q",
    instance_profile="i",
)


@pytest.mark.parametrize("which", ["execution", "user", "launch", "instance"])
def test_the_tables_are_the_policies(which):
    """Each table has its policy's statements, with all their actions."""
    text = (DOCS / "iam.md").read_text(encoding="utf-8").partition(f"\n## {which}\n")[2].partition("\n## ")[0]
    rows = {
        row[0]: set(re.findall(r"`([a-z0-9]+:\w+)`", row[1]))
        for row in re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.M)
    }
    policy = getattr(policies, f"{which}_policy")(NAMES)
    assert rows == {statement["Sid"]: set(statement["Action"]) for statement in policy["Statement"]}


def test_every_statement_of_the_setup_is_explained():
    """The text names every statement of the policy, and no other."""
    text = (DOCS / "iam.md").read_text(encoding="utf-8").partition("\n## setup\n")[2].partition("\n## ")[0]
    policy = policies.setup_policy(NAMES, layers=["arn:aws:lambda:us-west-2:123456789012:layer:x:1"])
    assert set(re.findall(r"`([A-Z]\w+)`", text)) == {statement["Sid"] for statement in policy["Statement"]}


def test_commands_of_the_page_exist():
    """Every command in the page exists."""
    text = (DOCS / "setup.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:pywren )?((?:create|delete|deploy|test|print|log|cleanup)_\w+)", text))
    assert named <= set(cli.commands)
    assert len(named) > 12


def test_the_page_of_stand_alone_workers_names_every_command_and_option():
    """The tables have every command and option; options that only 0.4 knew are listed below them."""
    text = (DOCS / "standalone.md").read_text(encoding="utf-8")
    commands = cli.commands["standalone"].commands
    assert set(re.findall(r"^\| `(\w+)(?: \[N\])?` \|", text, re.M)) == set(commands)
    options = {name for option in commands["launch_instances"].params for name in option.opts if "_" in name}
    named = set(re.findall(r"`--(\w+)`", text))
    assert {name for name in options if name.startswith("--")} <= {f"--{name}" for name in named | {"dry_run"}}


def test_the_page_of_stand_alone_workers_names_existing_keys():
    """Every key of the section ``standalone`` in the page is a key of the configuration."""
    text = (DOCS / "standalone.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`standalone: (\w+)`", text))
    assert named
    assert {f"standalone.{name}" for name in named} <= set(wrenconfig.KEYS)
