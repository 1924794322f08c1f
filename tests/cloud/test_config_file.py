"""Changing one section of a configuration file keeps everything else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import yaml

from pywren.cloud._config_file import change_section, changed_text
from pywren.exceptions import ConfigError

NEW = {"s3_bucket": "b", "s3_key": "k/x.tar.gz", "sha256": "00"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "s3:\n  bucket: a",
        "s3:\n  bucket: a # mine\n\n# the end\n",
        "runtime:\ns3:\n  bucket: a\n",
        "runtime: # none\ns3:\n  bucket: a\n",
        "runtime: ~\ns3:\n  bucket: a\n",
        "runtime: {}  # none\ns3: {bucket: a}\n",
        "runtime: {s3_bucket: old, preinstalls: [x, y]}\ns3: {bucket: a}\n",
        "runtime:\n  s3_bucket: old # comment\n  # another\n  preinstalls:\n    - x\n\n# of s3\ns3:\n  bucket: a\n",
        "s3:\n  bucket: a\nruntime:\n    s3_key: 'old'\n    s3_bucket: |\n      long\n      text\n",
        "runtime:\n  sha256:\n  s3_key: k\ns3:\n  bucket: a\n",
        "runtime:\r\n  s3_key: old\r\ns3:\r\n  bucket: a\r\n",
        "---\nruntime: {s3_key: old}\n",
    ],
)
def test_a_section_is_changed(text: str) -> None:
    """The new values are written; other keys, sections and comments stay; repeating the change has no effect."""
    before = yaml.safe_load(text) or {}
    changed = changed_text(text, "runtime", NEW)
    assert changed is not None
    after = yaml.safe_load(changed)
    assert after["runtime"] == {**(before.get("runtime") or {}), **NEW}
    assert {**after, "runtime": 0} == {**before, "runtime": 0}
    for comment in ("# mine", "# the end", "# another", "# of s3", "# comment"):
        assert (comment in changed) == (comment in text)
    assert ("\r\n" in text) == ("\r\n" in changed)
    assert "\r\n" not in text or "\n" not in changed.replace("\r\n", "")
    assert changed_text(changed, "runtime", NEW) == changed


def test_keys_are_taken_out() -> None:
    """Each key is removed with its line; a missing key is not an error."""
    text = "runtime:\n  s3_bucket: b\n  s3_key: k # here\n  preinstalls: [x]\n# end\n"
    changed = changed_text(text, "runtime", dict.fromkeys(NEW))
    assert changed == "runtime:\n  preinstalls: [x]\n# end\n"


@pytest.mark.parametrize("text", ["[1, 2]\n", "text", "runtime: &r {a: 1}\ns3: *r\n", "a: [", "{runtime: {}, s3: {}}x"])
def test_what_cannot_be_changed_safely_is_left_alone(tmp_path: Path, text: str) -> None:
    """When a file cannot be edited safely, it is not changed, and the error says what to write by hand."""
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="write s3_bucket, s3_key, sha256 in its section runtime yourself"):
        change_section(path, "runtime", NEW)
    assert path.read_text() == text


def test_mode_and_links_stay(tmp_path: Path) -> None:
    """The target of a symbolic link is replaced and keeps its mode, and no other file is left."""
    path, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    path.write_text("s3:\n  bucket: a\n")
    path.chmod(0o640)
    link.symlink_to(path)
    change_section(link, "runtime", NEW)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert yaml.safe_load(path.read_text())["runtime"] == NEW
    assert sorted(os.listdir(tmp_path)) == ["link.yaml", "real.yaml"]


def test_a_missing_file(tmp_path: Path) -> None:
    """A missing file is not created."""
    with pytest.raises(ConfigError, match="No such file"):
        change_section(tmp_path / "none.yaml", "runtime", NEW)


def test_a_failure_leaves_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure leaves the file unchanged, and no temporary file behind."""
    path = tmp_path / "config.yaml"
    path.write_text("s3:\n  bucket: a\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        change_section(path, "runtime", NEW)
    assert os.listdir(tmp_path) == ["config.yaml"]
    assert path.read_text() == "s3:\n  bucket: a\n"
