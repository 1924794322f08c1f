"""``Boot``: the script that an instance runs at its first boot; EC2 passes it as user data.

The script only writes three files and starts a systemd unit; the unit does everything else. This way systemd ensures
that no instance costs money without working. However the worker ends, and even if the worker fails or hangs while
starting, the machine powers off. EC2 terminates an instance that powers itself off.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import metadata

from pywren.exceptions import DeploymentError

LIMIT = 16 * 1024
"""The maximum size of user data in bytes ("Run commands at launch", Amazon EC2 User Guide, 2026)."""

PREPARATION_SECONDS = 1800
"""Seconds after which an instance gives up if its worker has not started."""

HOME = "/opt/pywren"
"""The directory for the files that the script writes."""

STATE = "/var/lib/pywren"
"""The worker's own directory."""

CONSOLE = "/dev/console"
"""The device whose output EC2 shows as the console output."""

CONSOLE_LINES = 100
"""How many of the worker's last lines are written to the console."""

UNIT = "/etc/systemd/system/pywren-worker.service"
_REQUIREMENTS = ("boto3", "botocore")
_END = "PYWREN_END"


@dataclass(frozen=True)
class Boot:
    """The settings of an instance. They contain no secrets, because every process on the instance can read them.

    Args:
        bucket: the bundle's bucket.
        key: the bundle's key.
        sha256: the bundle's SHA-256 in hexadecimal; an instance refuses a bundle with any other SHA-256.
        region: the region of the bucket and the queue.
        queue: the queue to take calls from.
        python: the version of Python, such as ``3.12``.
        requirements: the requirements that pip installs in addition to the bundle.
        parallelism: how many calls to run at once.
        max_idle_time: seconds without a call after which the worker ends.
        idle_terminate_granularity: the length of a billing period in seconds; an idle worker ends only shortly before
            the end of such a period.
    """

    bucket: str
    key: str
    sha256: str
    region: str
    queue: str
    python: str
    requirements: tuple[str, ...]
    parallelism: int = 1
    max_idle_time: float = 60
    idle_terminate_granularity: float = 3600

    @property
    def command(self) -> list[str]:
        """The worker's command line."""
        options = {
            "parallelism": self.parallelism,
            "aws_region": self.region,
            "sqs_queue_name": self.queue,
            "max_idle_time": f"{self.max_idle_time:g}",
            "idle_terminate_granularity": f"{self.idle_terminate_granularity:g}",
            "run_dir": STATE,
        }
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return ["/usr/bin/env", f"python{self.python}", "-m", "pywren.worker.standalone", *flags]

    def user_data(self) -> str:
        """Return the text of the script.

        Raises:
            DeploymentError: the script is longer than EC2 accepts.
        """
        text = _USER_DATA.format(
            home=HOME,
            state=STATE,
            fetch=_fetch_program(self),
            prepare=_prepare_script(self),
            unit=_unit(self),
            unit_path=UNIT,
            unit_name=UNIT.rpartition("/")[2],
            end=_END,
        )
        size = len(text.encode())
        if size > LIMIT:
            raise DeploymentError(
                f"the boot script of the instances has {size:,} bytes, but the limit of EC2 is {LIMIT:,}: "
                "use shorter names in the configuration"
            )
        return text


def client_requirements() -> tuple[str, ...]:
    """Return requirements for the packages that the worker needs besides the bundle, in this machine's versions."""
    return tuple(f"{name}=={metadata.version(name)}" for name in _REQUIREMENTS)


_USER_DATA = """\
#!/bin/bash
# A stand-alone worker of pywren. When it ends, for whatever reason, the machine powers off and is terminated.
set -eu
trap 'echo "pywren: this machine could not be set up, and is being terminated" >&2; shutdown -h now' EXIT
id -u pywren >/dev/null 2>&1 || useradd --system --create-home --home-dir {state} --shell /sbin/nologin pywren
mkdir -p {home}
cat > {home}/fetch.py <<'{end}'
{fetch}{end}
cat > {home}/prepare <<'{end}'
{prepare}{end}
cat > {unit_path} <<'{end}'
{unit}{end}
chmod 755 {home}/prepare
systemctl daemon-reload
systemctl enable {unit_name}
systemctl start --no-block {unit_name}
trap - EXIT
"""


# -- the three files -----------------------------------------------------------------------------------------


def _unit(boot: Boot) -> str:
    return _UNIT.format(
        queue=boot.queue,
        state=STATE,
        home=HOME,
        command=" ".join(_systemd_quote(word) for word in boot.command),
        name=UNIT.rpartition("/")[2],
        lines=CONSOLE_LINES,
        console=CONSOLE,
        patience=PREPARATION_SECONDS,
    )


# All output goes to the journal. Only the end of the output goes to the console, whose text EC2 keeps: the console is
# as slow as a serial line and would delay functions that print a lot. OOMPolicy: if a call uses all memory, that call
# fails, but the worker goes on. KillMode: systemd signals only the worker, which stops its calls and returns them to
# the queue. [Install]: the unit starts after a reboot too, so that the machine does not stay on without a worker.
_UNIT = """\
[Unit]
Description=Worker of pywren for the queue {queue}
Wants=network-online.target
After=network-online.target
SuccessAction=poweroff
FailureAction=poweroff

[Service]
Type=exec
User=pywren
WorkingDirectory={state}
Environment=PYTHONPATH={home}/bundle PYTHONUNBUFFERED=1
ExecStartPre=+{home}/prepare
ExecStart={command}
ExecStopPost=+-/bin/sh -c "journalctl --sync; journalctl --unit={name} --lines={lines} --output=cat >{console}"
TimeoutStartSec={patience}
TimeoutStopSec=90
KillMode=mixed
OOMPolicy=continue
LimitNOFILE=65536
TasksMax=infinity
StandardOutput=journal
StandardError=journal

[Install]
WantedBy=multi-user.target
"""


def _prepare_script(boot: Boot) -> str:
    return _PREPARE.format(
        python=f"python{boot.python}",
        requirements=shlex.join(boot.requirements),
        home=HOME,
    )


# PIP_BREAK_SYSTEM_PACKAGES: some Linux distributions protect their packages (PEP 668), but only the worker uses this
# machine. HOME and cd: systemd starts the script as root in the worker's directory, where calls may have left a module
# named pip or a pip.conf before a reboot. `again` retries, since some failures are temporary: the network, a mirror, a
# role that was just created.
_PREPARE = """\
#!/bin/bash
# Turns this machine into a worker; may run again.
set -eu
exec 1>&2
cd /
export HOME=/root PYTHONNOUSERSITE=1
export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
again() {{
    for pause in 5 10 20 40; do
        "$@" && return
        echo "pywren: failed; trying again in $pause s: $*"
        sleep "$pause"
    done
    "$@" || {{ echo "pywren: this machine cannot become a worker: this keeps failing: $*"; exit 1; }}
}}
{python} -m pip --version >/dev/null 2>&1 || again dnf install -y -q {python} {python}-pip
again {python} -m pip install --quiet {requirements}
{python} {home}/fetch.py
"""


def _fetch_program(boot: Boot) -> str:
    return _FETCH.format(
        bucket=boot.bucket,
        key=boot.key,
        sha256=boot.sha256,
        region=boot.region,
        target=f"{HOME}/bundle",
    )


_FETCH = '''\
"""Fetches pywren's bundle and unpacks it, if it is the one that was uploaded."""
import compileall, hashlib, io, os, shutil, sys, time, zipfile

import boto3, botocore.exceptions

BUCKET, KEY, REGION = {bucket!r}, {key!r}, {region!r}
SHA256, TARGET = {sha256!r}, {target!r}


def fetch():
    # IAM is eventually consistent: a new role works only after some seconds
    for pause in (1, 2, 4, 8, 16, 30, 30, 30, None):
        try:
            return boto3.client("s3", region_name=REGION).get_object(Bucket=BUCKET, Key=KEY)["Body"].read()
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            print(f"pywren: cannot fetch s3://{{BUCKET}}/{{KEY}}: {{error}}", file=sys.stderr)
            if pause is None:
                raise SystemExit(1)
            time.sleep(pause)


if not os.path.isdir(TARGET):
    data = fetch()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        sys.exit(f"pywren: s3://{{BUCKET}}/{{KEY}} is not what was uploaded: its SHA-256 is {{found}}; it was not run")
    shutil.rmtree(TARGET + ".new", ignore_errors=True)
    zipfile.ZipFile(io.BytesIO(data)).extractall(TARGET + ".new")
    compileall.compile_dir(TARGET + ".new", quiet=1, stripdir=TARGET + ".new", prependdir=TARGET)
    os.rename(TARGET + ".new", TARGET)
'''


def _systemd_quote(word: str) -> str:
    """Quote a word for a unit file, so that systemd reads no part of the word as a specifier, variable or separator."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if set(word) & set(" \t'\"\\;") else escaped
