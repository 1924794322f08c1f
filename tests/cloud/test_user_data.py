"""The boot script of instances, actually run: only commands that would change this machine are replaced."""

import base64
import configparser
import hashlib
import http.server
import os
import shlex
import shutil
import subprocess
import sys
import threading
from contextlib import closing

import accounts
import pytest

import pywren
from pywren.aws.requests import AWS
from pywren.cloud import _user_data
from pywren.cloud._user_data import Boot, client_requirements
from pywren.cloud.launch import PACKAGED_PYTHONS, Launcher, Wish
from pywren.cloud.resources import Resources
from pywren.exceptions import DeploymentError
from pywren.worker.bundle import build_zip

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
KEY = "the.jobs/bundles/x.zip"

STAND_INS = {
    "id": "exit 1",  # the user does not exist yet
    "useradd": "",
    "shutdown": "",
    "dnf": "",
    "sleep": "",
    "journalctl": "echo the journal",
    # as systemd does: the preparation, then the worker unless that failed, then the unit's action
    "systemctl": '[ "$1" = start ] && exec {python} {machine}/systemd.py; exit 0',
    # pip does nothing: the tests have installed what it would install
    f"python{HERE}": 'case "$*" in *pip*) exit 0;; esac; exec {python} "$@"',
}

SYSTEMD = """\
import base64
import configparser
import hashlib, os, shlex, subprocess, sys
unit = configparser.RawConfigParser(strict=True)
unit.optionxform = str
unit.read(sys.argv[0].replace("systemd.py", "units/pywren-worker.service"))
service = unit["Service"]
environment = {**os.environ, **dict(word.split("=", 1) for word in shlex.split(service["Environment"]))}
commands = [service["ExecStartPre"].removeprefix("+"), service["ExecStart"]]
code = 0
for command in commands:
    words = shlex.split(command)
    code = code or subprocess.call(words, env=environment, cwd=service["WorkingDirectory"])
for command in [shlex.split(service["ExecStopPost"].lstrip("+-"))]:
    subprocess.check_call(command, env=environment)
action = unit["Unit"]["FailureAction" if code else "SuccessAction"]
subprocess.call(["shutdown", "as", action, "of", "systemd", "code", str(code)])
"""


class Machine:
    """A machine that runs a script at boot, in its own directory."""

    def __init__(self, directory):
        self.directory = directory
        self.told = directory / "told"
        for name in ("bin", "units", "state"):
            (directory / name).mkdir()
        (directory / "systemd.py").write_text(SYSTEMD)
        for name, script in STAND_INS.items():
            self.put(name, script.replace("{python}", sys.executable).replace("{machine}", str(directory)))

    def put(self, name, script):
        """Put a command on the path that records its runs."""
        path = self.directory / "bin" / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> {self.told}\n{script}\n')
        path.chmod(0o755)

    def boot(self, script, **environment):
        """Run a script as cloud-init does, and return its output."""
        places = {
            _user_data.HOME: f"{self.directory}/home",
            _user_data.UNIT.rpartition("/")[0]: f"{self.directory}/units",
            _user_data.STATE: f"{self.directory}/state",
            _user_data.CONSOLE: f"{self.directory}/console",
        }
        for place, here in places.items():
            script = script.replace(place, here)
        keep = {"HOME", "TMPDIR", "PYTHONPYCACHEPREFIX", "SUITE_OF_TESTS"}
        kept = {name: value for name, value in os.environ.items() if name in keep or name.startswith("AWS_")}
        done = subprocess.run(
            ["bash"],
            input=script,
            env={**kept, "PATH": f"{self.directory}/bin:/usr/bin:/bin", **environment},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout + done.stderr

    @property
    def commands(self):
        """Return the stand-in commands that ran, in order, with their arguments."""
        return self.told.read_text().splitlines()

    @property
    def bundle(self):
        """Return the directory of the unpacked bundle."""
        return self.directory / "home" / "bundle"


@pytest.fixture
def machine(tmp_path):
    """A machine that has not been booted."""
    return Machine(tmp_path)


def boot_of(archive, **changes):
    """Return the boot of an instance."""
    settings = {
        "bucket": "the-bucket",
        "key": KEY,
        "sha256": hashlib.sha256(archive).hexdigest(),
        "region": "us-west-2",
        "queue": "the-queue",
        "python": HERE,
        "requirements": client_requirements(),
    }
    return Boot(**{**settings, **changes})


@pytest.fixture
def bucket(monkeypatch):
    """Run an S3 server with one object, which counts its requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        content, asked = b"", 0

        def do_GET(self):
            Handler.asked += 1
            known = self.path.startswith(f"/the-bucket/{KEY}")
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(Handler.content) if known else 0))
            self.end_headers()
            self.wfile.write(Handler.content if known else b"")

        def log_message(self, *arguments):
            """Log nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


SMALL = build_zip(
    {"pywren/__init__.py": b"", "pywren/worker/standalone/__main__.py": b"import sys; print('ran', sys.argv[1:])"}
)


def test_a_boot_from_the_script_to_the_end(machine, bucket):
    """A boot installs everything, runs the worker with its options, and powers the machine off."""
    bucket.content = SMALL
    said = machine.boot(boot_of(SMALL, parallelism=3).user_data())
    assert "ran ['--parallelism', '3', '--aws_region', 'us-west-2', '--sqs_queue_name', 'the-queue'," in said
    names = [line.split()[0] for line in machine.commands]
    python = f"python{HERE}"
    assert names == [
        *["id", "useradd", "systemctl", "systemctl", "systemctl"],
        *[python, python, python, python],
        *["journalctl", "journalctl", "shutdown"],
    ]
    assert machine.commands[2:5] == [
        "systemctl daemon-reload",
        "systemctl enable pywren-worker.service",
        "systemctl start --no-block pywren-worker.service",
    ]
    assert f"{python} -m pip install --quiet {' '.join(client_requirements())}" in machine.commands
    assert machine.commands[-1] == "shutdown as poweroff of systemd code 0"
    assert list(machine.bundle.rglob("*.pyc")) or "PYTHONPYCACHEPREFIX" in os.environ


def test_python_is_installed_when_it_is_not_there(machine, bucket):
    """dnf installs Python, and is retried after temporary failures."""
    bucket.content = SMALL
    copy = f"cp {machine.directory}/bin/python{HERE} {machine.directory}/bin/python3.99"
    tried = machine.directory / "tried"
    machine.put("dnf", f"[ -e {tried} ] || {{ touch {tried}; exit 1; }}; {copy}")
    said = machine.boot(boot_of(SMALL, python="3.99").user_data())
    assert machine.commands.count("dnf install -y -q python3.99 python3.99-pip") == 2
    assert "pywren: failed; trying again in 5 s: dnf install" in said
    assert machine.commands[-1] == "shutdown as poweroff of systemd code 0"


def test_another_bundle_is_not_run(machine, bucket):
    """Row 170: one changed byte is enough."""
    bucket.content = SMALL + b"\n"
    said = machine.boot(boot_of(SMALL).user_data())
    assert f"pywren: s3://the-bucket/{KEY} is not what was uploaded" in said
    assert "ran [" not in said
    assert not machine.bundle.exists()
    assert machine.commands[-1] == "shutdown as poweroff of systemd code 1"
    assert bucket.asked == 1
    assert (machine.directory / "console").read_text() == "the journal\n"


def test_no_way_to_the_packages(machine, bucket):
    """Row 171: the installation is retried for a while, then the failure is reported and the machine powered off."""
    machine.put(f"python{HERE}", "exit 1")
    machine.put("dnf", "exit 1")
    said = machine.boot(boot_of(SMALL).user_data())
    assert said.splitlines()[-1].startswith(
        "pywren: this machine cannot become a worker: this keeps failing: dnf install"
    )
    assert [line for line in machine.commands if line.startswith("sleep")] == [f"sleep {n}" for n in (5, 10, 20, 40)]
    assert machine.commands[-1] == "shutdown as poweroff of systemd code 1"


def test_the_script_itself_fails(machine):
    """Row 171: the script powers the machine off if it fails before systemd takes over."""
    machine.put("useradd", "exit 1")
    assert "pywren: this machine could not be set up, and is being terminated" in machine.boot(
        boot_of(SMALL).user_data()
    )
    assert machine.commands[-1] == "shutdown -h now"


def test_a_boot_that_hangs_is_ended_by_systemd():
    """Row 171: systemd ends a boot that takes more than half an hour."""
    assert unit_of(boot_of(SMALL))["Service"]["TimeoutStartSec"] == "1800"


def test_the_worker_crashes_and_the_machine_boots_again(machine, bucket):
    """Row 172: the machine is powered off; after a reboot it works again, even without the bucket."""
    crashing = build_zip({"pywren/worker/standalone/__main__.py": b"raise SystemExit(7)"})
    bucket.content = crashing
    machine.boot(boot_of(crashing).user_data())
    assert machine.commands[-1] == "shutdown as poweroff of systemd code 7"
    bucket.content = b"deleted meanwhile"
    subprocess.run([sys.executable, machine.directory / "systemd.py"], env=environment_of(machine), check=True)
    assert machine.commands[-1] == "shutdown as poweroff of systemd code 7"
    assert bucket.asked == 1
    unit = unit_of(boot_of(SMALL))
    assert unit["Unit"]["SuccessAction"] == unit["Unit"]["FailureAction"] == "poweroff"
    assert unit["Install"]["WantedBy"] == "multi-user.target"
    assert unit["Service"]["OOMPolicy"] == "continue"  # running out of memory ends only that call


def test_what_calls_leave_is_not_run_as_root(machine, bucket):
    """After a reboot, Python and pip read neither the worker's directory nor its home."""
    bucket.content = SMALL
    (machine.directory / "state" / "pip.py").write_text("print('hacked')")
    machine.put(f"python{HERE}", f'echo "$HOME ${{PYTHONNOUSERSITE-}} $PWD" >> {machine.directory}/looked; exit 0')
    machine.boot(boot_of(SMALL).user_data(), HOME=str(machine.directory / "state"))
    *preparation, _ = (machine.directory / "looked").read_text().splitlines()
    assert preparation == ["/root 1 /"] * 3


def environment_of(machine):
    """Return the environment of systemd itself."""
    return {**os.environ, "PATH": f"{machine.directory}/bin:/usr/bin:/bin"}


def unit_of(boot):
    """Return the unit that a boot has written."""
    unit = configparser.RawConfigParser(strict=True)
    unit.optionxform = str
    unit.read_string(_user_data._unit(boot))
    return unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_takes_the_unit(tmp_path):
    """systemd accepts every key of the unit."""
    path = tmp_path / "pywren-worker.service"
    path.write_text(_user_data._unit(boot_of(SMALL)))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "pywren-worker" in line]
    assert [line for line in ours if "not executable" not in line and "No such file" not in line] == []


def test_hostile_names_stay_names(machine, bucket):
    """Names from a configuration are never interpreted as shell, Python or systemd syntax."""
    hacked = machine.directory / "hacked"
    hostile = f"$(touch {hacked})`touch {hacked}`'\"%h$HOME\\"
    boot = boot_of(SMALL, region=hostile, requirements=(f"boto3==$(touch {hacked})",))
    words = shlex.split(unit_of(boot)["Service"]["ExecStart"])
    assert [word.replace("%%", "%").replace("$$", "$") for word in words] == boot.command
    compile(_user_data._fetch_program(boot), "fetch.py", "exec")
    machine.put(f"python{HERE}", 'case "$*" in *fetch.py*) exit 1;; esac')
    machine.boot(boot.user_data())
    assert f"python{HERE} -m pip install --quiet boto3==$(touch {hacked})" in machine.commands
    assert not hacked.exists()
    program = _user_data._fetch_program(boot).replace(_user_data.HOME, str(machine.directory / "home"))
    assert (machine.directory / "home" / "fetch.py").read_text() == program


def test_the_script_fits():
    """EC2 accepts 16 KB; a longer script is refused before anything is launched."""
    assert len(boot_of(SMALL).user_data().encode()) < 8 * 1024
    with pytest.raises(DeploymentError, match="limit of EC2 is 16,384"):
        boot_of(SMALL, key="x" * 20_000).user_data()


def test_an_instance_works(emulator, machine, monkeypatch):
    """The script runs calls from the queue, with the real bundle and worker and an emulated AWS."""
    monkeypatch.setattr("pywren.cloud.launch.PACKAGED_PYTHONS", PACKAGED_PYTHONS | {HERE})
    config = emulator.deploy()
    with closing(AWS(accounts.REGION)) as aws, closing(pywren.remote_executor(config)) as executor:
        resources = Resources(config, aws)
        for step in resources.instance_profile.plan():
            step.run()
        futures = executor.map(lambda number: (number * 2, pywren.SOURCE_DIR), range(3))
        launcher = Launcher(config, resources.names, aws)
        wish = Wish.of(config, max_idle_time=2, idle_terminate_granularity=0, parallelism=2)
        (launched,) = launcher.launch(launcher.order(wish)).instances
        script = aws.request(
            "ec2", "describe_instance_attribute", doing="look", InstanceId=launched.id, Attribute="userData"
        )["UserData"]["Value"]
        said = machine.boot(base64.b64decode(script).decode())
        assert machine.commands[-1] == "shutdown as poweroff of systemd code 0", said
        assert [future.result(timeout=10) for future in futures] == [
            (number * 2, str(machine.bundle / "pywren")) for number in range(3)
        ]
        for step in [*resources.instances.plan_removal(), *resources.instance_profile.plan_removal()]:
            step.run()
