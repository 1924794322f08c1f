"""``Emulator``: an emulated AWS as its user sees it: environment, configuration, faults and counters."""

from __future__ import annotations

import contextlib
import difflib
import functools
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from pywren.aws.requests import AWS
from pywren.exceptions import ArgumentError, EmulatorError
from pywren.testing import _set_up
from pywren.testing.emulator._counters import Counters, Execution
from pywren.testing.emulator._faults import Faults
from pywren.testing.emulator._packages import Layer, layer_of
from pywren.testing.emulator._settings import Settings
from pywren.testing.emulator._supervisor import module_command
from pywren.worker.bundle import build_zip, worker_files
from pywren.wrenconfig import KEYS

_CONTROL_SECONDS = 30.0
_END_SECONDS = 5.0
_LOG_BYTES = 4000


class Emulator:
    """A running emulator, which ``emulate()`` creates.

    Attributes:
        endpoint: its URL, for ``AWS_ENDPOINT_URL``.
        region: its region.
    """

    endpoint: str
    region: str

    def __init__(self, server: _Server, region: str) -> None:
        self.endpoint = server.ready.endpoint
        self.region = region
        self._server = server
        self._layers: dict[tuple[str, ...], tuple[str, Layer]] = {}

    def __repr__(self) -> str:
        return f"Emulator({self.endpoint!r})"

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables that make boto3 and pywren use this emulator instead of AWS.

        All other variables that begin with ``AWS_`` must be unset, as they are within ``emulate()``.
        """
        ready = self._server.ready
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ready.access_key_id,
            "AWS_SECRET_ACCESS_KEY": ready.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **_set_up.no_proxy_here(),
        }

    def deploy(
        self,
        *,
        memory: int = 1536,
        timeout: int = 300,
        packages: Sequence[str] = (),
        files: Mapping[str, bytes] | None = None,
        layers: Sequence[str] = (),
        **settings: Any,
    ) -> dict[str, Any]:
        """Create a bucket, role, queue and function as pywren does on AWS, and return the configuration.

        The function has the same modules as a deployed worker. Your own modules are sent with each map. A package with
        compiled parts is refused at ``map``, unless it is among ``packages``. The configuration has the prices of
        us-east-1, whatever the region is.

        Args:
            memory: the function's memory in megabytes.
            timeout: the function's time-out in seconds.
            packages: installed distributions, such as ``numpy``, to put into a layer of the function, together with
                their requirements.
            files: the contents of files to add to the worker's zip or to replace in it, by relative path.
            layers: the ARNs of existing layers to add to the function.
            **settings: more keys for the configuration's section ``lambda``.

        Raises:
            ArgumentError: a package is not installed, or a key is unknown.
            DeploymentError: the emulator refused to create a resource.
        """
        _check_keys(settings)
        made = self._layer(tuple(sorted(packages)))[1].modules if packages else ()
        config = _set_up.configuration(
            f"pywren-{uuid.uuid4().hex[:12]}",
            region=self.region,
            memory=memory,
            timeout=timeout,
            preinstalls=made,
        )
        archive = _worker_zip() if files is None else build_zip({**worker_files(), **files})
        with closing(AWS(self.region, session=self._session())) as aws:
            _set_up.create_bucket(config, aws)
            all_layers = [*layers, *([self._publish(tuple(sorted(packages)), config, aws)] if packages else [])]
            config["lambda"].update({"layers": all_layers} if all_layers else {}, **settings)
            _set_up.create_resources(config, aws, archive=archive)
        return config

    def _session(self) -> Any:
        """Return a botocore session that uses this emulator, whatever the current environment variables say."""
        import botocore.config
        import botocore.session

        unread = (None, None, os.devnull, None)
        session: Any = botocore.session.Session(
            {"profile": (None, None, None, None), "config_file": unread, "credentials_file": unread}
        )
        create_client, ready = session.create_client, self._server.ready
        own = botocore.config.Config(proxies={}, use_fips_endpoint=False, use_dualstack_endpoint=False)

        def create_own(service: str, *, config: Any, **arguments: Any) -> Any:
            return create_client(
                service,
                endpoint_url=self.endpoint,
                aws_access_key_id=ready.access_key_id,
                aws_secret_access_key=ready.secret_access_key,
                config=config.merge(own),
                **arguments,
            )

        session.create_client = create_own
        return session

    def _layer(self, packages: tuple[str, ...]) -> tuple[str, Layer]:
        """Return the ARN of the layer with these packages (``""`` until it is published), and the layer itself."""
        if packages not in self._layers:
            self._layers[packages] = ("", layer_of(packages))
        return self._layers[packages]

    def _publish(self, packages: tuple[str, ...], config: Mapping[str, Any], aws: AWS) -> str:
        """Publish the layer with these packages, unless it is published already, and return its ARN."""
        arn, layer = self._layer(packages)
        if arn:
            return arn
        bucket, key = config["s3"]["bucket"], f"layers/{uuid.uuid4()}.zip"
        aws.request("s3", "put_object", doing="upload a layer", Bucket=bucket, Key=key, Body=layer.archive)
        answer = aws.request(
            "lambda",
            "publish_layer_version",
            doing="publish a layer",
            LayerName="-".join(("pywren", *packages))[:64].replace(".", "-"),
            Content={"S3Bucket": bucket, "S3Key": key},
        )
        aws.request("s3", "delete_object", doing="remove the zip of a layer", Bucket=bucket, Key=key)
        self._layers[packages] = (str(answer["LayerVersionArn"]), layer._replace(archive=b""))
        return self._layers[packages][0]

    def set_faults(self, faults: Faults) -> None:
        """Replace the current faults."""
        self._server.ask("PUT", "faults", faults.encode())

    def counters(self) -> Counters:
        """Return the counts since the emulator started."""
        return Counters.decode(self._server.ask("GET", "counters"))

    def executions(self, function: str | None = None) -> list[Execution]:
        """Return the executions that have ended, of one function or of all functions, the oldest first."""
        found = [Execution.decode(fields) for fields in self._server.ask("GET", "executions")]
        return [each for each in found if function in (None, each.function)]

    def wait_idle(self, timeout: float = 60.0) -> None:
        """Wait until no event is waiting or running, and the log is written.

        Raises:
            EmulatorError: the wait took longer than ``timeout`` seconds.
        """
        self._server.ask("POST", "wait-idle", {"timeout": timeout}, patience=timeout + _CONTROL_SECONDS)

    def close(self) -> None:
        """End the emulator and all processes that it started."""
        self._server.close()


@contextmanager
def emulate(**settings: Any) -> Iterator[Emulator]:
    """Run an emulated AWS while the context lasts, and set this process's environment to use it.

    Within the context, your own AWS account is out of reach: your variables and configuration files for AWS and boto3's
    default session are not used, and ``PYWREN_CONFIG_FILE`` is unset. The end of the context restores all of this.
    Contexts may be nested.

    Args:
        **settings: the arguments of ``Settings``.

    Raises:
        ArgumentError: a setting is unknown or has a value that is not valid, or this machine cannot run so many
            containers.
        ImportError: a part is not installed; the message names the extra ``pywren[emulator]``.
        EmulatorError: a part did not start, or the emulator ended early and this made the code in the context fail.
    """
    with ExitStack() as stack:
        emulator = start(Settings.decode(settings))
        stack.callback(emulator.close)
        stack.enter_context(in_reach(emulator))
        try:
            yield emulator
        except EmulatorError:
            raise
        except Exception:
            emulator.counters()  # if the emulator has ended, this raises the reason, the cause of this failure
            raise


@contextmanager
def in_reach(emulator: Emulator) -> Iterator[None]:
    """Let this process use a running emulator instead of AWS while the context lasts, as ``emulate`` describes."""
    with _default_session_put_away(), _set_up.environment(emulator.environment), _unset("PYWREN_CONFIG_FILE"):
        yield


def start(settings: Settings) -> Emulator:
    """Start an emulator without changing the environment. The caller must end the emulator with its ``close``.

    Raises:
        ArgumentError: this machine cannot run so many containers.
        ImportError: a part is not installed; the message names the extra ``pywren[emulator]``.
        EmulatorError: a part did not start.
    """
    from pywren.testing.emulator._backends import check_installed
    from pywren.testing.emulator._descriptors import check_descriptors

    check_installed()
    check_descriptors(settings.containers)
    return Emulator(_Server(settings), settings.region)


def _check_keys(settings: Mapping[str, Any]) -> None:
    """Check that all names in ``settings`` are keys of the configuration's section ``lambda``."""
    known = [path.removeprefix("lambda.") for path in KEYS if path.startswith("lambda.")]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            raise ArgumentError(f"functions have no setting {name}: {hint}")


@functools.cache
def _worker_zip() -> bytes:
    return build_zip()


@contextmanager
def _unset(name: str) -> Iterator[None]:
    saved = os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if saved is not None:
            os.environ[name] = saved


@contextmanager
def _default_session_put_away() -> Iterator[None]:
    """Let boto3 create a new default session while the context lasts, and then restore the old one."""
    boto3 = sys.modules.get("boto3")
    saved = getattr(boto3, "DEFAULT_SESSION", None)
    try:
        _set_default_session(None)
        yield
    finally:
        _set_default_session(saved)


def _set_default_session(session: Any) -> None:
    boto3 = sys.modules.get("boto3")
    if boto3 is not None:
        boto3.__dict__["DEFAULT_SESSION"] = session


# -- the process ---------------------------------------------------------------------------------------------


class Ready(NamedTuple):
    """The message that the emulator's process sends when it is ready.

    Args:
        endpoint: the emulator's URL.
        access_key_id: the client's access key id.
        secret_access_key: the client's secret access key.
        control_token: the token for requests to ``/_emulator``.
        directory: the directory of all files that the emulator writes.
    """

    endpoint: str
    access_key_id: str
    secret_access_key: str
    control_token: str
    directory: str


class _Server:
    """The emulator's process, and the requests to its control interface.

    The standard input of the emulator's process is the lifeline: a pipe whose other end only this process holds, so
    that the input ends when this process ends.
    """

    def __init__(self, settings: Settings) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - ``close`` closes it
        self._process = subprocess.Popen(
            module_command("pywren.testing.emulator._server"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_set_up.without_aws(os.environ),
            start_new_session=True,  # only the user's process handles Ctrl-C, not the emulator's
        )
        self._reason: EmulatorError | None = None
        _lifelines.add(self)
        try:
            self.ready = self._started(settings)
        except BaseException:
            self.close()
            raise

    def _started(self, settings: Settings) -> Ready:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # if the emulator's process has ended, its output says why
            self._process.stdin.write(json.dumps(settings.encode()).encode() + b"\n")
            self._process.stdin.flush()
        said = self._said()
        if said is None:
            raise EmulatorError(f"the emulated AWS did not start\n{self._log_end()}")
        return Ready(**said)

    def _said(self) -> dict[str, Any] | None:
        """Return the process's next message, or ``None`` at the end of its output; if it reports an error, raise it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return None
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise EmulatorError(said["error"])
        return said

    def _log_end(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        # pread, because the file offset is shared with the process that writes
        text = os.pread(self._log.fileno(), _LOG_BYTES, max(0, size - _LOG_BYTES)).decode("utf-8", "replace")
        return f"the end of its log:\n{text.strip() or '  (empty)'}"

    def ask(self, method: str, what: str, body: Any = None, *, patience: float = _CONTROL_SECONDS) -> Any:
        """Send a request to the control interface, and return the answer.

        Raises:
            EmulatorError: the emulator's process has ended, or it refuses the request.
        """
        if self._process.stdin is None or self._process.stdin.closed:
            raise EmulatorError("the emulated AWS is closed")
        address = urlsplit(self.ready.endpoint)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=patience)
        headers = {"Authorization": f"Bearer {self.ready.control_token}", "Content-Type": "application/json"}
        try:
            connection.request(method, f"/_emulator/{what}", None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from error
        finally:
            connection.close()
        if answer.status >= 400:
            raise EmulatorError(
                f"the emulated AWS responded with status {answer.status}: {data.decode('utf-8', 'replace')[:2000]}"
            )
        return json.loads(data) if data.strip() else None

    def _gone(self, error: Exception) -> EmulatorError:
        """Return the error to report when the emulator's process does not answer; its output may give the reason."""
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            return EmulatorError(f"the emulated AWS does not answer ({error})\n{self._log_end()}")
        try:
            self._said()
        except EmulatorError as said:
            self._reason = said
        return self._reason or EmulatorError(
            f"the emulated AWS has ended, with exit code {self._process.returncode}\n{self._log_end()}"
        )

    def close(self) -> None:
        """End the process."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            if hasattr(self, "ready"):
                shutil.rmtree(self.ready.directory, ignore_errors=True)
        process.stdout.close()
        self._log.close()

    def let_go(self) -> None:
        """Close the lifeline in a forked child of this process; otherwise the emulator would outlive this process."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError), open(os.devnull, "rb") as nothing:
                os.dup2(nothing.fileno(), self._process.stdin.fileno())


_lifelines: weakref.WeakSet[_Server] = weakref.WeakSet()


def _let_go_of_lifelines() -> None:
    for server in list(_lifelines):
        server.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_of_lifelines)
