"""Files in a package's directory that are not sent: hidden files, foreign files and secrets."""

from __future__ import annotations

import importlib
import logging
import traceback
import zipfile
from pathlib import Path
from typing import Any

import pytest

import pywren
from pywren.serialize import ModuleDependencyAnalyzer
from pywren.serialize._modules import contents_of

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"
CERTIFICATE = "# somebody's\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# a tool's\n"

STAYS = {
    # hidden
    ".env": "PASSWORD=x",
    ".env.production": "",
    ".aws/credentials": "",
    ".git/config": "",
    ".ipynb_checkpoints/a-checkpoint.py": "",
    ".terraform/state.json": "",
    ".DS_Store": "",
    "sub/.netrc": "",
    # not part of the package
    "__pycache__/x.cpython-313.pyc": "",
    "node_modules/left-pad/index.js": "",
    "web/node_modules/a/b.json": "",
    "env/pyvenv.cfg": "",
    "env/lib/x.py": "",
    "miniconda/conda-meta/history": "",
    "miniconda/lib/y.py": "",
    "target/CACHEDIR.TAG": TAG,
    "target/big.bin": "",
    # secret
    "key.pem": KEY,
    "server.pem": "what this is nobody knows",
    "chain_and_key.pem": CERTIFICATE + "-----BEGIN RSA PRIVATE KEY-----\n",
    "id_rsa": KEY,
    "id_ed25519.old": KEY,
    "tls/server.key": "",
    "store.p12": "",
    "credentials.json": "{}",
    "sub/credentials": "[default]",
    "Secrets.YAML": "",
    "vault/secrets/db_password": "x",
    "prod.env": "",
    "client_secret_12.json": "",
    "service-account.json": "",
    "terraform.tfstate": "",
    "account.json": '{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\\nMII"}',
    "renamed.txt": KEY,
    "session.ppk.txt": "PuTTY-User-Key-File-3: ssh-rsa\n",
}
GOES = {
    "__init__.py": "",
    "secrets/__init__.py": "",
    "secrets/words.csv": "",
    "credentials.py": "",
    "secret.py": f"KEY = '''{KEY}'''\n",
    "cacert.pem": CERTIFICATE,
    "public.pem": "-----BEGIN PUBLIC KEY-----\n",
    "templates/index.html": "<html>",
    "templates/env.j2": "A={{a}}",
    "data/table.csv": "1,2",
    "data/keys.json": "{}",
    "data/tokens.txt": "the\na\n",
    "environment/__init__.py": "",
    "cache/words.txt": "",
    "cached/CACHEDIR.TAG": "is not one",
    "build/model.bin": "\x00",
    "dist/a.txt": "",
    "LICENSE": "",
    "config.ini": "[a]",
    "_private.py": "",
    "dot.file": "",
}


def shipped(monkeypatch: pytest.MonkeyPatch, path: Path) -> set[str]:
    """Return which files of the package ``pkg`` are sent."""
    monkeypatch.syspath_prepend(path)
    analyzer = ModuleDependencyAnalyzer()
    analyzer.add("pkg")
    return {name.removeprefix("pkg/") for name in contents_of(analyzer.files())}


def test_of_a_directory(ship: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Row 283: the package's own files are sent; the others are logged at debug level, once per directory."""
    ship.write({f"pkg/{name}": text for name, text in {**STAYS, **GOES}.items()})
    with caplog.at_level(logging.DEBUG, "pywren"):
        assert shipped(monkeypatch, ship.client) == set(GOES)
    said = [record.getMessage() for record in caplog.records if "is not sent" in record.getMessage()]
    assert f"{ship.client}/pkg/.git is not sent: it is hidden" in said
    assert sum("node_modules" in line for line in said) == 2
    assert not any("__pycache__" in line for line in said)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_of_a_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 283: the same holds for a package in a zip file, as far as names show it."""
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as archive:
        for name in (
            "__init__.py",
            "a.txt",
            ".env",
            ".git/config",
            "node_modules/a.js",
            "credentials.json",
            "k/key.pem",
        ):
            archive.writestr(f"pkg/{name}", KEY if name.endswith("pem") else "")
    assert shipped(monkeypatch, tmp_path / "lib.zip") == {"__init__.py", "a.txt"}


def test_a_link_to_a_secret(ship: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 283: a link to a secret is not sent; links into the hidden stores of tools are."""
    ship.write(
        {"pkg/__init__.py": "", ".aws/credentials": "", ".aws/config": "", ".cache/tool/data.txt": "", "id_rsa": ""}
    )
    (ship.client / "pkg" / "login.txt").symlink_to(ship.client / ".aws" / "credentials")
    (ship.client / "pkg" / "settings").symlink_to(ship.client / ".aws")
    (ship.client / "pkg" / "key.txt").symlink_to(ship.client / "id_rsa")
    (ship.client / "pkg" / "data.txt").symlink_to(ship.client / ".cache" / "tool" / "data.txt")
    assert shipped(monkeypatch, ship.client) == {"__init__.py", "data.txt"}


def test_a_function_that_needs_one(ship: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 283: the ``FileNotFoundError`` says that the file was not sent, and why."""
    code = "import os\ndef f(name):\n    return open(os.path.join(os.path.dirname(__file__), name)).read()\n"
    ship.write({"held_pkg/__init__.py": code, "held_pkg/.env": "", "held_pkg/credentials.json": ""})
    monkeypatch.syspath_prepend(ship.client)
    f = importlib.import_module("held_pkg").f
    hidden, secret = pywren.local_executor().map(f, [".env", "credentials.json"])
    for future, name in ((hidden, ".env"), (secret, "credentials.json")):
        with pytest.raises(FileNotFoundError) as caught:
            future.result(60)
        text = "".join(traceback.format_exception(caught.value))
        assert (
            f"'held_pkg/{name}' exists on the client but was not sent, because its name suggests that it is secret"
            in text
        )


def test_what_stays_does_not_count(ship: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are not sent do not count towards the size of a package."""
    monkeypatch.setattr("pywren.serialize._modules.PACKAGE_LIMIT", 1000)
    ship.write({"pkg/__init__.py": "", "pkg/node_modules/big.js": "x" * 2000, "pkg/.git/objects/pack": "x" * 2000})
    assert shipped(monkeypatch, ship.client) == {"__init__.py"}
