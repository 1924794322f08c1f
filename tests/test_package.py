"""The wheel that is installed: its contents and its metadata."""

from __future__ import annotations

import email.message
import email.parser
import importlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import pywren
from pywren.version import __version__

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build the wheel from a copy of the sources, so that nothing is written beside them."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "pywren", source / "pywren", ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist"), str(source)],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (source / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    """The wheel's metadata."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.parser.BytesParser().parsebytes(wheel.read(name))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """The wheel has every module and the type marker, but no tests, examples or caches."""
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "pywren").rglob("*.py")} | {"pywren/py.typed"}
    packaged = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert expected <= packaged
    assert {name.partition("/")[0] for name in packaged} == {"pywren"}
    assert not [name for name in packaged if "__pycache__" in name]
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


@pytest.mark.slow
def test_the_metadata(metadata: email.message.Message) -> None:
    """Name, version, licence and supported Pythons are correct."""
    assert metadata["Name"] == "pywren"
    assert metadata["Version"] == __version__ == pywren.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    pythons = {f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)}
    assert pythons == {each for each in metadata.get_all("Classifier", []) if re.search(r"Python :: 3\.", each)}


@pytest.mark.slow
def test_the_description_is_the_readme_with_links_to_this_version(metadata: email.message.Message) -> None:
    """The page on PyPI has the README's text, and each link leads to a file of this version."""
    (source,) = re.findall(r"^Source, (.+)$", "\n".join(metadata.get_all("Project-URL", [])), re.MULTILINE)
    described = bytes(metadata.get_payload(decode=True)).decode()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.compile(r"\]\(([^)\s]+)\)")
    assert links.sub("]", described).strip() == links.sub("]", readme).strip()
    expected = [
        link if re.match(r"[a-z]+:|#", link) else rf"{source}/(blob|raw)/v{__version__}/{link}"
        for link in links.findall(readme)
    ]
    found = links.findall(described)
    assert [link for link, pattern in zip(found, expected, strict=True) if not re.fullmatch(pattern, link)] == []


@pytest.mark.slow
def test_every_extra_is_explained(metadata: email.message.Message) -> None:
    """The page about extras has a row for each extra, and for no other."""
    rows = re.findall(r"^\| (`.+?`) \|", (ROOT / "docs" / "extras.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`(.+?)`", " ".join(rows))) == set(metadata.get_all("Provides-Extra", []))


@pytest.mark.thorough
def test_the_source_distribution_is_the_repository(tmp_path: Path) -> None:
    """Whoever has the source distribution has every file of the repository, and so can run its tests."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a clone")
    files = set(listed.stdout.splitlines())
    for name in files:
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "source" / name)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), "source"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    with tarfile.open(tmp_path / f"pywren-{__version__}.tar.gz") as archive:
        packed = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {"PKG-INFO", "setup.cfg"} | {name for name in packed if name.startswith("pywren.egg-info/")}
    assert packed - made == files - {".gitignore"}


@pytest.mark.slow
def test_plain_requirements_are_few(metadata: email.message.Message) -> None:
    """Without extras, seven packages are required; the extras are those in the documentation."""
    required = [item for item in metadata.get_all("Requires-Dist", []) if "extra ==" not in item]
    names = {re.split(r"[<>=!~ \[;]", item)[0].lower() for item in required}
    assert names == {"boto3", "botocore", "click", "cloudpickle", "pyyaml", "tblib", "tqdm"}
    assert {"testing", "examples", "plots", "test"} <= set(metadata.get_all("Provides-Extra", []))


@pytest.mark.slow
def test_every_console_script_can_be_started(wheel: zipfile.ZipFile) -> None:
    """Each command names a function that exists."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt"))
    scripts = re.findall(r"^(\S+) = (\S+):(\S+)$", wheel.read(name).decode(), re.MULTILINE)
    assert [script for script, _, _ in scripts if script == "pywren"]
    for _, module, function in scripts:
        assert callable(getattr(importlib.import_module(module), function))


def test_the_licence_is_the_whole_text() -> None:
    """The licence file is the Apache License 2.0 as published."""
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_citation_is_the_paper() -> None:
    """Whoever cites PyWren is given the paper, and no version that somebody would have to keep up to date."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert "version" not in citation
    paper = citation["preferred-citation"]
    authors = [author["family-names"] for author in paper["authors"]]
    assert authors == ["Jonas", "Pu", "Venkataraman", "Stoica", "Recht"]
    assert paper["url"] == "https://arxiv.org/abs/1702.04024"


def test_the_changelog_starts_with_what_is_not_released() -> None:
    """The changelog begins with the unreleased changes, described for users; this version's follow, with their date."""
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])


def test_all_say_alike_how_mature_this_version_is() -> None:
    """The version, the classifier, the README and the site's front page agree: an alpha, a beta, or neither."""
    word = {"a": "alpha", "b": "beta"}.get("".join(re.findall(r"\d(a|b)\d+$", __version__)), "")
    (status,) = re.findall(r"Development Status :: \d - (\w+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert status.lower() == (word or "production")
    for page in ("README.md", "docs/index.md"):
        said = re.findall(r"\*\*This release is an? (\w+)\.\*\*", (ROOT / page).read_text(encoding="utf-8"))
        assert said == ([word] if word else [])


def test_the_top_level_is_tidy() -> None:
    """The top level of the repository contains only what belongs there."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a clone")
    top = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    folders = {"pywren", "tests", "examples", "docs", "benchmarks", ".ci"}
    documents = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "LICENSE"}
    assert top <= folders | documents | {"setup.py", "pyproject.toml", "MANIFEST.in", ".gitignore"}
