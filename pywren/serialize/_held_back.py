"""Decides which files in a package's directory are not sent.

There are three kinds of such files; docs/modules.md documents them for users:

hidden      a file or directory whose name begins with a dot, unless the record of an installed distribution lists it
not part    caches, virtual environments and packages of other languages, recognized by their contents or their names
secret      keys, passwords and tokens, recognized by their names or their contents

Python files never count as secret, because a package without one of its Python files would not work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from fnmatch import fnmatchcase

_CODE = (".py", ".pyi", ".pyc", ".pyx", ".pxd", ".so", ".pyd", ".ipynb")

BYTE_CODE = "byte code"
_NOT_PART = {
    "__pycache__": BYTE_CODE,
    "__pypackages__": "packages of others",
    "node_modules": "packages of others",
    "bower_components": "packages of others",
}
_ENVIRONMENTS = {"pyvenv.cfg": "a virtual environment", "conda-meta": "a conda environment"}
_CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55"  # https://bford.info/cachedir/

_SECRET_NAMES = (
    # Keys for SSH, TLS and signing, and key stores. For *.pem files the content is checked.
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.key", "*.p8", "*.p12", "*.pfx", "*.ppk", "*.jks"),
    *("*.keystore", "*.kdbx", "*.ovpn"),
    # Files from which programs read passwords and tokens.
    *(".env", ".env.*", "*.env", ".envrc", "credentials", "credentials.*", "secrets", "secrets.*", "secret.*"),
    *(".netrc", "_netrc", ".pgpass", "pgpass.conf", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd", ".my.cnf"),
    *("client_secret*.json", "service_account*.json", "service-account*.json", "kubeconfig", ".dockercfg", ".s3cfg"),
    *(".boto", "*.tfstate", "*.tfstate.backup", "*.tfvars", "*.tfvars.json"),
    *(".aws", ".ssh", ".gnupg", ".kube", ".docker", ".azure", ".gcloud"),
)
_SECRET_FOLDERS = ("secrets", "credentials")
_LOOKED_INTO = 64 * 1024
"""The largest file, in bytes, in which to look for a key. No file with only a key is larger."""

_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|PuTTY-User-Key-File-")
_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")
_PUBLIC = (b"CERTIFICATE", b"PUBLIC KEY", b"X509 CRL", b"DH PARAMETERS", b"EC PARAMETERS")


def why_held_back(name: str, *, is_directory: bool, is_recorded: bool = False) -> str | None:
    """Return why a file or directory with this name is not sent; ``None`` if its name does not prevent that.

    Args:
        name: the last component of the path.
        is_directory: whether the path is that of a directory.
        is_recorded: whether the record of an installed distribution lists the path.
    """
    if name in _NOT_PART:
        return _NOT_PART[name]
    lower = name.lower()
    is_code = lower.endswith(_CODE) or (is_directory and name.isidentifier())  # a package may well be called secrets
    if not is_code and any(fnmatchcase(lower, pattern) for pattern in _SECRET_NAMES):
        return "its name suggests that it is secret"
    if name.startswith(".") and not is_recorded:
        return "it is hidden"
    return None


def why_path_held_back(path: str, *, is_recorded: bool = False) -> str | None:
    """Return why a file with this relative POSIX path is not sent; ``None`` if its path does not prevent that."""
    *above, name = path.split("/")
    for part in above:
        if reason := why_held_back(part, is_directory=True, is_recorded=is_recorded):
            return reason
    return why_held_back(name, is_directory=False, is_recorded=is_recorded)


def why_not_part(directory: str, names: Collection[str]) -> str | None:
    """Return why a directory is not part of the package that contains it; ``None`` if it is.

    Args:
        directory: the directory.
        names: the names of the files and directories in it.
    """
    for name, what in _ENVIRONMENTS.items():
        if name in names:
            return what
    if os.path.basename(directory).lower() in _SECRET_FOLDERS and not any(name.endswith(_CODE) for name in names):
        return "its name suggests that it is secret"
    if "CACHEDIR.TAG" in names and _begins_with(os.path.join(directory, "CACHEDIR.TAG"), _CACHE_TAG):
        return "a cache"
    return None


def _begins_with(path: str, text: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(text)) == text
    except OSError:
        return False


def why_content_held_back(name: str, data: bytes) -> str | None:
    """Return why a file with this content is not sent; ``None`` if its content does not prevent that.

    Args:
        name: the file's name.
        data: the file's content.
    """
    lower = name.lower()
    if lower.endswith(_CODE) or (len(data) > _LOOKED_INTO and not lower.endswith(".pem")):
        return None
    if _PRIVATE_KEY.search(data):
        return "it contains a private key"
    if lower.endswith(".pem"):  # whatever is not a certificate may be a key, in any format
        kinds = _PEM_BLOCK.findall(data)
        if not kinds or not all(kind.endswith(_PUBLIC) for kind in kinds):
            return "it may be a private key"
    return None
