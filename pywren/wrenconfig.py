"""The configuration: a nested dict from a YAML file. Errors name the file, the key and the remedy."""

from __future__ import annotations

import copy
import functools
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pywren.exceptions import ConfigError
from pywren.storage.runtime_info import is_public
from pywren.system.home import home_path
from pywren.wire.keys import MOST_COPIES

logger = logging.getLogger(__name__)

Config = dict[str, Any]

MAX_AGG_DATA_SIZE = 4e6
"""The most bytes of arguments that a map stores in one shared object."""

AWS_REGION_DEFAULT = "us-west-2"
AWS_S3_BUCKET_DEFAULT = "pywren.data"
AWS_S3_PREFIX_DEFAULT = "pywren.jobs"
AWS_LAMBDA_ROLE_DEFAULT = "pywren_exec_role_1"
AWS_LAMBDA_FUNCTION_NAME_DEFAULT = "pywren_1"
AWS_SQS_QUEUE_DEFAULT = "pywren-jobs-1"
AWS_EC2_INSTANCE_TYPE_DEFAULT = "m5.large"

# Names kept only for programs written for 0.4. The values are those that pywren uses now.
GENERIC_HANDLER_NAME = "pywren.wrenhandler.generic_handler"
AWS_LAMBDA_HANDLER_NAME = "pywren.wrenhandler.aws_lambda_handler"
PACKAGE_FILE = "deploy.zip"
MEMORY = 1536
TIMEOUT = 300
DEFAULT_KEY_NAME = "PYWREN_DEFAULT_KEY"

default_runtime = {version: f"pywren.runtimes/default_{version}.tar.gz" for version in ("3.10", "3.11", "3.12", "3.13")}
"""The S3 keys of runtimes in the user's own bucket, by Python version."""

CONFIG_VARIABLE = "PYWREN_CONFIG_FILE"
_FILE_NAME = ".pywren_config"
_PLACEHOLDER_BUCKETS = frozenset({"BUCKET_NAME", "YOUR_BUCKET", "YOUR_BUCKET_NAME", AWS_S3_BUCKET_DEFAULT})


# -- where it comes from -------------------------------------------------------------------------------------


class Source(NamedTuple):
    """Where a configuration comes from.

    Args:
        kind: ``argument``, ``environment`` (``PYWREN_CONFIG_FILE``), ``directory`` (``./.pywren_config``),
            ``home`` (``~/.pywren_config``) or ``embedded``.
        path: the file; ``None`` when it does not come from a file.
    """

    kind: str
    path: str | None = None

    @property
    def embedded(self) -> bool:
        """Whether no configuration was found. If so, everything runs on this machine."""
        return self.kind == "embedded"

    def __str__(self) -> str:
        return self.path or {"argument": "the config argument", "embedded": "the embedded configuration"}[self.kind]


def find_source(config: Mapping[str, Any] | None = None) -> Source:
    """Return where the configuration comes from, without reading it.

    Args:
        config: a configuration that was passed as an argument; it takes precedence.

    Raises:
        ConfigError: ``PYWREN_CONFIG_FILE`` names a file that does not exist. No other file is used instead.
    """
    if config is not None:
        return Source("argument")
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ConfigError(
                f"{CONFIG_VARIABLE} names {named}, which does not exist: correct it, create the file with "
                f"`pywren --filename {named} create_config`, or unset the variable"
            )
        return Source("environment", named)
    for kind, path in (("directory", Path(_FILE_NAME)), ("home", Path(get_default_home_filename()))):
        if path.is_file():
            return Source(kind, str(path.absolute()))
    return Source("embedded")


def get_default_home_filename() -> str:
    """Return the path of the configuration in the user's home directory."""
    return str(Path.home() / _FILE_NAME)


def get_default_config_filename() -> str | None:
    """Return the path of the configuration file that ``default`` reads, or ``None`` if no file exists.

    Raises:
        ConfigError: ``PYWREN_CONFIG_FILE`` names a file that does not exist.
    """
    return find_source().path


def embedded() -> Config:
    """Return the configuration for a user without an AWS account: storage and workers are on this machine."""
    return {
        "storage_backend": "localhost",
        "storage_prefix": AWS_S3_PREFIX_DEFAULT,
        "runtime": {},
        "scheduler": {"map_item_limit": None},  # this key exists because programs written for 0.4 set it
    }


def default() -> Config:
    """Return the configuration from the first file that exists, or the embedded configuration if there is no file.

    The files are ``$PYWREN_CONFIG_FILE``, ``./.pywren_config`` and ``~/.pywren_config``.

    Raises:
        ConfigError: the file is missing, unreadable or wrong.
    """
    filename = get_default_config_filename()
    return embedded() if filename is None else load(filename)


def load(config_filename: str | os.PathLike[str]) -> Config:
    """Read a configuration from a YAML file, check it, and fill in where callsets are stored.

    Raises:
        ConfigError: the file is missing, unreadable or wrong; the message names the key and what to write.
    """
    path = os.fspath(config_filename)
    config = _parse(_read(path), path)
    validate(config, path)
    standalone = config.get("standalone") or {}
    if standalone.get("ec2_ssh_key") == DEFAULT_KEY_NAME:
        standalone["ec2_ssh_key"] = None
    _drop_public_runtime(config, path)
    return patch_storage_config(config)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror or error}; create one with `pywren create_config`"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the configuration {path} is not UTF-8 text (byte {error.start}): save it as UTF-8"
        ) from error


def _parse(text: str, path: str) -> Config:
    import yaml

    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else path
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}: this is not YAML: {problem}; correct it, or create a new file") from error
    if not isinstance(config, dict):
        found = "is empty" if config is None else f"is a {type(config).__name__}, not sections with keys"
        raise ConfigError(f"the configuration {path} {found}: create a new one with `pywren create_config --force`")
    return config


def _drop_public_runtime(config: Config, source: str) -> None:
    warn_of_public_runtime(config, source)
    runtime = config.get("runtime")
    if runtime and is_public(runtime):
        config["runtime"] = {key: value for key, value in runtime.items() if key not in ("s3_bucket", "s3_key")}


def warn_of_public_runtime(config: Mapping[str, Any], source: str = "the config argument") -> None:
    """If the runtime is in one of 0.4's public buckets, warn once per source that pywren ignores this runtime.

    Args:
        config: the configuration.
        source: where the configuration comes from: a file or something else.
    """
    runtime = config.get("runtime")
    if runtime and is_public(runtime):
        _warn_of_public_runtime(source, str(runtime["s3_bucket"]))


@functools.lru_cache(maxsize=64)  # one warning per file, however often it is read
def _warn_of_public_runtime(source: str, bucket: str) -> None:
    logger.warning(
        "%s: the runtime in the public bucket %s no longer exists and is ignored; calls use the worker's own Python. "
        "To give workers your own packages, run `pywren runtime build`",
        source,
        bucket,
    )


# -- the keys and what they accept ---------------------------------------------------------------------------


class Key(NamedTuple):
    """Which values a key of the configuration accepts.

    Args:
        kinds: the accepted types; ``float`` accepts whole numbers too.
        default: the value when the key is missing; ``None`` when there is no default.
        low: the smallest number.
        high: the largest number.
        hint: what to write, for error messages, if the types do not say enough.
        fits: tells whether a value of the right type is valid.
    """

    kinds: tuple[type, ...] = (str,)
    default: Any = None
    low: float | None = None
    high: float | None = None
    hint: str = ""
    fits: Callable[[Any], bool] = lambda value: True


def _are_layers(value: Any) -> bool:
    return len(value) <= 5 and all(isinstance(arn, str) and _LAYER_VERSION.fullmatch(arn) for arn in value)


_LAYER_VERSION = re.compile(r"arn:[a-z-]+:lambda:[a-z0-9-]*:(\d{12})?:(layer:[\w-]+:\d+|awslayer:[\w-]+)", re.ASCII)


def _is_account(value: int | str) -> bool:
    # PyWren 0.4 wrote a number, and YAML drops the leading zeros of numbers.
    return 0 < value < 10**12 if isinstance(value, int) else bool(re.fullmatch("[0-9]{12}", value))


def _is_region(value: str) -> bool:
    # AWS adds regions, and other servers may use any region name, so accept whatever botocore accepts.
    return bool(re.fullmatch("(?![0-9]+$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)", value))


def _is_bucket(value: str) -> bool:
    # New buckets must obey stricter rules, but buckets made in us-east-1 before March 2018 may have such names.
    return bool(re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{2,254}", value))


KEYS: Mapping[str, Key] = {
    "account.aws_account_id": Key((int, str), hint="the 12 digits of the account", fits=_is_account),
    "account.aws_lambda_role": Key(default=AWS_LAMBDA_ROLE_DEFAULT),
    "account.aws_region": Key(hint="a region such as us-west-2", fits=_is_region),
    "lambda.memory": Key((int,), MEMORY, 128, 10240),
    "lambda.timeout": Key((int,), TIMEOUT, 1, 900),
    "lambda.function_name": Key(default=AWS_LAMBDA_FUNCTION_NAME_DEFAULT),
    "lambda.architecture": Key(
        default="x86_64", hint="x86_64 or arm64", fits=lambda value: value in ("x86_64", "arm64")
    ),
    "lambda.ephemeral_storage": Key((int,), 512, 512, 10240),
    "lambda.layers": Key((list,), (), hint="a list of up to 5 ARNs of layers with their versions", fits=_are_layers),
    "lambda.event_age": Key((int,), 21600, 60, 21600),
    "lambda.concurrency": Key((int,), None, 1),
    "lambda.fan_out": Key((bool,), False),
    "lambda.copies": Key((int,), 1, 1, MOST_COPIES),
    "s3.bucket": Key(hint="the name of your bucket", fits=_is_bucket),
    "s3.pywren_prefix": Key(default=AWS_S3_PREFIX_DEFAULT),
    "s3.expiry_days": Key((int,), 7, 1, 3650),
    "localhost.root": Key(hint="a directory"),
    "local.show_output": Key((bool,), False),
    "runtime.s3_bucket": Key(),
    "runtime.s3_key": Key(),
    "runtime.sha256": Key(hint="the SHA-256 of the runtime's tarball in quotes, as `sha256sum` prints it"),
    "runtime.runtime_storage": Key(default="s3"),
    "runtime.preinstalls": Key((list,), (), hint="a list of the modules that a layer or an image provides"),
    "prices.gb_second": Key((float,), None, 0),
    "prices.million_requests": Key((float,), None, 0),
    "prices.storage_gb_second": Key((float,), None, 0),
    "prices.thousand_puts": Key((float,), None, 0),
    "prices.thousand_gets": Key((float,), None, 0),
    "scheduler.map_item_limit": Key((int,), None, 1),
    "scheduler.retries": Key((int,), 2, 0, 100),
    "scheduler.max_concurrency": Key((int,), None, 1),
    "scheduler.progress": Key(
        (bool, str), "auto", hint="true, false or auto", fits=lambda value: isinstance(value, bool) or value == "auto"
    ),
    "standalone.ec2_instance_type": Key(default=AWS_EC2_INSTANCE_TYPE_DEFAULT),
    "standalone.sqs_queue_name": Key(default=AWS_SQS_QUEUE_DEFAULT),
    "standalone.visibility": Key((int,), 10, 0, 43200),
    "standalone.ec2_ssh_key": Key(),
    "standalone.target_ami": Key(),
    "standalone.instance_name": Key(),
    "standalone.instance_profile_name": Key(),
    "standalone.max_idle_time": Key((float,), 60, 0),
    "standalone.idle_terminate_granularity": Key((float,), 3600, 0),
    "standalone.fast_io": Key((bool,), False),
    "standalone.availability_zone": Key(),
    "standalone.subnet_id": Key(hint="a subnet such as subnet-0123456789abcdef0"),
    "storage_backend": Key(hint="s3 or localhost"),
    "storage_prefix": Key(default=AWS_S3_PREFIX_DEFAULT),
    "local_run_dir": Key(hint="a directory"),
}
"""All keys of the configuration, by their paths: the section, a dot and the key."""

_SECTIONS = frozenset(path.partition(".")[0] for path in KEYS if "." in path)


def setting(config: Mapping[str, Any], path: str) -> Any:
    """Return the value of a key, or the key's default.

    Args:
        config: the configuration.
        path: the section and the key, such as ``"scheduler.retries"``.

    Returns:
        The value; ``None`` when the key is missing and has no default.
    """
    value: Any = config
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return KEYS[path].default if value is None else value


def require(config: Mapping[str, Any], path: str) -> Any:
    """Return the value of a key that must have one.

    Raises:
        ConfigError: the key is missing and has no default.
    """
    value = setting(config, path)
    if value is None:
        raise ConfigError(
            f"{_spoken(path)} is missing in the configuration: set it to {_wanted(KEYS[path])}, "
            "or create a configuration with `pywren create_config`"
        )
    return value


def validate(config: Mapping[str, Any], source: str = "the config argument") -> None:
    """Check a configuration. An unknown key causes only a warning, so that files for any version can be read.

    Args:
        config: the configuration.
        source: where the configuration comes from, for messages: a file or something else.

    Raises:
        ConfigError: a value is wrong; the message names the file, the key and what to write.
    """
    for path, value in _leaves(config, source):
        if path not in KEYS:
            _warn_of_unknown(path, source)
        elif value is not None:
            check_value(path, value, source)
    _check_storage(config, source)


def _check_storage(config: Mapping[str, Any], source: str) -> None:
    backend = setting(config, "storage_backend") or "s3"
    if backend not in ("s3", "localhost"):
        raise ConfigError(f"{source}: `storage_backend` is {backend!r}; it must be s3 or localhost")
    if backend == "s3":
        _check_bucket(config, source)


def _leaves(config: Mapping[str, Any], source: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if name not in _SECTIONS:
            yield str(name), value
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{key}", item) for key, item in value.items())
        elif value is not None:
            raise ConfigError(f"{source}: `{name}` is {value!r}, but must be a section: indent its keys below it")


def check_value(path: str, value: Any, source: str) -> None:
    """Check the value of one key.

    Args:
        path: the section and the key, such as ``"scheduler.retries"``.
        value: the key's value.
        source: where the configuration comes from, for messages: a file or something else.

    Raises:
        ConfigError: the value is wrong; the message names the source, the key and what to write.
    """
    key = KEYS[path]
    # Python accepts True as an int, but the author of a configuration does not mean that.
    fits = isinstance(value, key.kinds) and (not isinstance(value, bool) or bool in key.kinds)
    if not fits and not (float in key.kinds and type(value) is int):
        raise ConfigError(f"{source}: {_spoken(path)} is {value!r}; it must be {_wanted(key)}")
    if not key.fits(value) or (isinstance(value, float) and not math.isfinite(value)):
        raise ConfigError(f"{source}: {_spoken(path)} is {value!r}; it must be {_wanted(key)}")
    if (key.low is not None and value < key.low) or (key.high is not None and value > key.high):
        raise ConfigError(f"{source}: {_spoken(path)} is {value}; it must be {_wanted(key)}")


def _check_bucket(config: Mapping[str, Any], source: str) -> None:
    bucket = setting(config, "s3.bucket")
    if not bucket:
        raise ConfigError(
            f"{source}: {_spoken('s3.bucket')} is missing: set it to the name of your bucket, or "
            "`storage_backend` to localhost if calls are to run on this machine"
        )
    check_value("s3.bucket", bucket, source)
    if bucket in _PLACEHOLDER_BUCKETS:
        raise ConfigError(
            f"{source}: {_spoken('s3.bucket')} is still {bucket}: make sure you change the default bucket to the name "
            "of your own (`pywren create_bucket` creates it). Without a configuration file calls run on this machine"
        )


def _wanted(key: Key) -> str:
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    text = key.hint or " or ".join(names[kind] for kind in key.kinds)
    if key.low is not None and key.high is not None:
        return f"{text} from {key.low:g} to {key.high:g}" if key.high < 1e6 else text
    return text if key.low is None else f"{text} of at least {key.low:g}"


def _spoken(path: str) -> str:
    section, _, key = path.partition(".")
    return f"`{section}: {key}`" if key else f"`{section}`"


def _warn_of_unknown(path: str, source: str) -> None:
    import difflib  # imported here, because it is needed only after a mistake

    near = difflib.get_close_matches(path, KEYS, n=1, cutoff=0.75)
    hint = f": did you mean {_spoken(near[0])}?" if near else ""
    logger.warning("%s: unknown key %s is ignored%s", source, _spoken(path), hint)


# -- the storage ---------------------------------------------------------------------------------------------


def patch_storage_config(config_data: Config) -> Config:
    """Add the keys about storage that configuration files for 0.4 omit. Change ``config_data`` itself and return it."""
    defaults = {"storage_backend": "s3", "storage_prefix": setting(config_data, "s3.pywren_prefix")}
    config_data.update({key: value for key, value in defaults.items() if config_data.get(key) is None})
    runtime = config_data.get("runtime")
    config_data["runtime"] = {"runtime_storage": "s3", **(runtime or {})}
    return config_data


def extract_storage_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``storage_config`` that ``Storage`` takes and that payloads contain.

    Raises:
        ConfigError: the bucket is missing, or is still the placeholder of the template.
    """
    whole = patch_storage_config(copy.deepcopy(dict(config)))
    _check_storage(whole, "the configuration")
    return {
        "storage_backend": whole["storage_backend"],
        "storage_prefix": whole["storage_prefix"],
        "backend_config": _backend_config(whole),
    }


def _backend_config(config: Config) -> dict[str, Any]:
    if config["storage_backend"] == "localhost":
        root = setting(config, "localhost.root")
        return {"root": str(home_path() / "jobs") if root is None else os.path.abspath(os.path.expanduser(root))}
    return {"bucket": config["s3"]["bucket"], "region": setting(config, "account.aws_region")}
