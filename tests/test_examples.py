"""Every example runs as its reader would run it, on this machine and without an account."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
import yaml

if TYPE_CHECKING:
    from pywren.testing.emulator import Emulator

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
FIGURES = EXAMPLES / "figures"

# The kernel gets sockets in the current directory: ports are chosen before the kernel binds them, and another program
# may be faster.
NOTEBOOK = """
import sys
import nbclient, nbformat, traitlets.config
notebook = nbformat.read(sys.argv[1], as_version=4)
config = traitlets.config.Config({"KernelManager": {"transport": "ipc"}})
nbclient.NotebookClient(notebook, config=config, timeout=120).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text", ""), end="")
"""


def finished(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an example program to its end."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{FIGURES}", "REDIS_URL": "", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def run(*command: str, cwd: Path, **variables: str) -> str:
    """Run an example program and return what it prints."""
    done = finished(*command, cwd=cwd, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_random_matrices(tmp_path: Path) -> None:
    """The README's first program runs, with a smaller count."""
    assert "40 vectors of 1024 numbers" in run(str(EXAMPLES / "random_matrices.py"), "40", cwd=tmp_path)


def test_word_count(tmp_path: Path) -> None:
    """Map and reduce count the words of a known text correctly."""
    text = tmp_path / "text"
    text.write_text("the sea, the sky\n" * 250 + "the end\n")
    printed = run(str(EXAMPLES / "word_count.py"), str(text), cwd=tmp_path)
    assert printed.splitlines()[0] == "1002 words in 3 parts of 1 files"
    assert printed.split("\n")[1].split() == ["501", "the"]


def test_word_count_of_the_projects_own_documents(tmp_path: Path) -> None:
    """Without arguments the example counts the words of real text."""
    assert " words in " in run(str(EXAMPLES / "word_count.py"), cwd=tmp_path)


def test_exceptions_and_retries(tmp_path: Path) -> None:
    """Calls with a temporary failure succeed in the end; a call that can never succeed is reported once."""
    printed = run(str(EXAMPLES / "exceptions_and_retries.py"), cwd=tmp_path).splitlines()
    assert [line for line in printed if line.startswith("job")] == [
        "job 0: 0",
        "job 1: 1",
        "job 2: 4",
        "job 3: 9",
        "job 4: ValueError: job 4 will never work",
        "job 5: 25",
    ]
    attempts = [line.partition(": ") for line in printed if not line.startswith("job")]
    assert {cause for _, _, cause in attempts} <= {"exception", "ended itself"}


def test_collect_elsewhere(tmp_path: Path) -> None:
    """Another process collects every result."""
    printed = run(str(EXAMPLES / "collect_elsewhere.py"), cwd=tmp_path)
    assert "[0, 1, 4, 9, 16, 25, 36, 49], still open: 0" in printed


@pytest.mark.slow
def test_notebook(tmp_path: Path) -> None:
    """The notebook runs from top to bottom without a browser."""
    printed = run("-c", NOTEBOOK, str(EXAMPLES / "notebook.ipynb"), cwd=tmp_path)
    assert "pi is about 3.1" in printed
    assert "-7 working on 7" in printed
    assert "ZeroDivisionError: division by zero" in printed


# -- the examples that need more, or take longer ----------------------------------------------------------------------

needs_redis = pytest.mark.skipif(not shutil.which("redis-server"), reason="redis-server is not installed")

WITH_REDIS = """
import os, subprocess, sys
import redis_throughput
with redis_throughput.redis_server() as server:
    sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], env={**os.environ, "REDIS_URL": server.url}).returncode)
"""


@pytest.fixture
def aws(emulator: Emulator, tmp_path: Path) -> dict[str, str]:
    """Return variables with which a program finds a configuration for the emulated AWS."""
    path = tmp_path / "pywren_config.yaml"
    path.write_text(yaml.safe_dump(emulator.deploy()))
    return {"PYWREN_CONFIG_FILE": str(path)}


def objects_under(prefix: str, aws: dict[str, str]) -> list[str]:
    bucket = yaml.safe_load(Path(aws["PYWREN_CONFIG_FILE"]).read_text())["s3"]["bucket"]
    return [found.key for found in boto3.resource("s3").Bucket(bucket).objects.filter(Prefix=prefix)]


@pytest.mark.thorough
def test_shuffle_word_count(tmp_path: Path, aws: dict[str, str]) -> None:
    """The shuffle counts the words of a known text correctly, and leaves no object."""
    text = tmp_path / "text"
    text.write_text("the sea, the sky\n" * 500 + "the end\n")
    printed = run(str(EXAMPLES / "shuffle_word_count.py"), str(text), cwd=tmp_path, **aws).splitlines()
    assert printed[0] == "2002 words in 3 parts, counted by 4 reducers"
    assert [line.split() for line in printed[1:]] == [["1001", "the"], ["500", "sea"], ["500", "sky"], ["1", "end"]]
    assert not objects_under("examples/", aws)


@pytest.mark.thorough
def test_terasort(tmp_path: Path, aws: dict[str, str]) -> None:
    """The records are sorted, and no object is left."""
    printed = run(str(EXAMPLES / "terasort.py"), "3", "1000", cwd=tmp_path, **aws)
    assert printed == "3000 records in 3 parts; in order: True; the records of the input: True\n"
    assert not objects_under("examples/", aws)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["shuffle_word_count.py", "terasort.py", "macro_reduce.py"])
def test_an_example_that_needs_aws_says_so(name: str, tmp_path: Path) -> None:
    """Without a configuration the program ends with one line that says what it needs."""
    done = finished(str(EXAMPLES / name), cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("run it on AWS or an emulated AWS")


@pytest.mark.thorough
def test_thumbnails(tmp_path: Path, emulator: Emulator) -> None:
    """Every picture gets a thumbnail, a file that is none is reported, and the buckets are removed."""
    printed = run(str(EXAMPLES / "thumbnails.py"), cwd=tmp_path, PYWREN_EXECUTOR="local")
    assert "03.png: (640, 320) → (128, 64)" in printed
    assert "readme.txt: cannot identify" in printed
    assert printed.endswith("12 thumbnails of 13 files\n")
    assert not [bucket.name for bucket in boto3.resource("s3").buckets.all() if bucket.name.startswith("thumbnails")]


@pytest.mark.thorough
def test_thumbnails_of_given_buckets(tmp_path: Path, emulator: Emulator) -> None:
    """The pictures of one bucket become thumbnails in the other, and both buckets stay."""
    s3 = boto3.resource("s3")
    buckets = [s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": emulator.region})
               for name in ("examples-source", "examples-target")]  # fmt: skip
    buckets[0].put_object(Key="deep/picture.png", Body=(ROOT / "docs" / "pictures" / "timeline.png").read_bytes())
    names = [bucket.name for bucket in buckets]
    printed = run(str(EXAMPLES / "thumbnails.py"), *names, cwd=tmp_path, PYWREN_EXECUTOR="local")
    assert printed.endswith("1 thumbnails of 1 files\n")
    made = [each.key for each in buckets[1].objects.all()]
    assert made == ["deep/picture.png.jpg"]
    for bucket in buckets:
        bucket.objects.delete()
        bucket.delete()


@pytest.mark.thorough
def test_monte_carlo(tmp_path: Path) -> None:
    """The price is the same however the blocks are shared out among calls, and in every run."""
    printed = run(str(EXAMPLES / "monte_carlo.py"), "30000", cwd=tmp_path).splitlines()
    assert re.fullmatch(r"5\.\d{4} ± 0\.0\d{3} from 30000 paths in 6 calls", printed[0])
    assert printed[1].endswith("the same")


@pytest.mark.thorough
def test_scrape(tmp_path: Path) -> None:
    """Every page of every site arrives, although the sites refuse requests that come too soon."""
    printed = [line.split() for line in run(str(EXAMPLES / "scrape.py"), cwd=tmp_path).splitlines()]
    assert len({url for _, url in printed}) == 24
    assert {size for size, _ in printed} == {"700"}


@pytest.mark.thorough
def test_scrape_of_a_page_that_does_not_exist(tmp_path: Path) -> None:
    """A page that cannot be fetched is reported in its place."""
    printed = run(str(EXAMPLES / "scrape.py"), "http://127.0.0.1:9/nobody", cwd=tmp_path)
    assert "refused" in printed
    assert printed.endswith("http://127.0.0.1:9/nobody\n")


@contextmanager
def running_service(tmp_path: Path) -> Iterator[str]:
    """Run the web service while the context lasts, and give its address."""
    service = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "web_service.py"), "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert service.stderr
    try:
        said = ""
        for line in service.stderr:
            said += line
            if address := re.search(r"http://[\d.]+:\d+", line):
                yield address[0]
                break
        else:
            pytest.fail(said)
    finally:
        service.send_signal(signal.SIGINT)
        service.communicate(timeout=60)


@pytest.mark.thorough
def test_web_service(tmp_path: Path) -> None:
    """A request is answered with what the calls return, and a wrong one is refused."""
    with running_service(tmp_path) as address:
        for path, wanted in [("health", b'{"ok":true}'), ("primes?below=1000", b'{"below":1000,"primes":168}')]:
            with urllib.request.urlopen(f"{address}/{path}", timeout=60) as answer:
                assert answer.read() == wanted
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/primes?below=-1", timeout=60)
        refused.value.close()
        assert refused.value.code == 422


@pytest.mark.thorough
def test_featurize_and_fit(tmp_path: Path) -> None:
    """The model that was found knows most digits that it has not seen."""
    printed = run(str(EXAMPLES / "featurize_and_fit.py"), "300", cwd=tmp_path).splitlines()
    assert printed[0].startswith("120 features of 300 images; the best C is 0.")
    assert float(printed[1].rpartition(" ")[2]) > 0.85


@pytest.mark.thorough
@needs_redis
def test_parameter_server(tmp_path: Path) -> None:
    """Many workers train one model together."""
    printed = run("-c", WITH_REDIS, str(EXAMPLES / "parameter_server.py"), cwd=tmp_path)
    after = re.fullmatch(r"accuracy 0\.\d\d before, (0\.\d\d) after 400 steps of 4 workers\n", printed)
    assert after, printed
    assert float(after[1]) > 0.85


@pytest.mark.thorough
def test_macro_reduce(tmp_path: Path, aws: dict[str, str]) -> None:
    """The quantiles of what ran on Lambda come from a stand-alone worker, and are right."""
    printed = run(str(EXAMPLES / "macro_reduce.py"), "--worker-here", cwd=tmp_path, **aws)
    assert re.search(r"quantiles of 160000 values: .*25% (89|90)\.\d, 50% (99|100)\.\d, 75% 110\.\d", printed), printed


# -- the figures ------------------------------------------------------------------------------------------------------


def table_of(printed: str) -> list[list[str]]:
    """Return the cells of the rows under the heads of a figure's table."""
    return [line.split() for line in printed.split("\n\n")[0].splitlines()[1:]]


def assert_picture(path: Path) -> None:
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.thorough
def test_flops(tmp_path: Path) -> None:
    """The figure has a row for each number of workers, an efficiency, the published results, and a picture."""
    options = ["--workers", "2", "1", "--matn", "64", "--loops", "2", "--repeats", "1"]
    printed = run(str(FIGURES / "flops.py"), *options, cwd=tmp_path)
    rows = table_of(printed)
    assert [row[0] for row in rows] == ["1", "2"]
    assert all(float(cell) >= 0 for row in rows for cell in row)
    assert "40 TFLOPS peak" in printed
    assert_picture(tmp_path / "flops.png")


@pytest.mark.thorough
def test_flops_without_bare_processes(tmp_path: Path) -> None:
    """Where calls run elsewhere, this machine's own limit is left out."""
    options = [
        "--workers",
        "1",
        "--matn",
        "64",
        "--loops",
        "2",
        "--repeats",
        "2",
        "--no-bare",
        "--picture",
        "other.png",
    ]
    rows = table_of(run(str(FIGURES / "flops.py"), *options, cwd=tmp_path))
    assert [row[-2:] for row in rows] == [["–", "–"]]
    assert_picture(tmp_path / "other.png")


@pytest.mark.thorough
def test_s3_throughput(tmp_path: Path, aws: dict[str, str]) -> None:
    """Objects are written to the configuration's bucket, read, and removed."""
    options = ["--workers", "2", "--mb", "1", "--repeats", "1"]
    printed = run(str(FIGURES / "s3_throughput.py"), *options, cwd=tmp_path, PYWREN_EXECUTOR="local", **aws)
    assert [row[:2] for row in table_of(printed)] == [["2", "write"], ["2", "read"]]
    assert_picture(tmp_path / "s3_throughput.png")
    assert not objects_under("figures/", aws)


@pytest.mark.thorough
def test_s3_throughput_without_a_bucket(tmp_path: Path) -> None:
    """Without a configuration the objects are in an emulated S3 that the program starts."""
    options = ["--workers", "1", "--mb", "1", "--repeats", "1", "--no-bare"]
    printed = run(str(FIGURES / "s3_throughput.py"), *options, cwd=tmp_path)
    assert [row[:2] for row in table_of(printed)] == [["1", "write"], ["1", "read"]]


@pytest.mark.thorough
@needs_redis
def test_redis_throughput(tmp_path: Path) -> None:
    """A server is started, and stopped at the end; Redis's own benchmark stands beside."""
    options = ["--workers", "1", "2", "--transactions", "200", "--repeats", "1"]
    rows = table_of(run(str(FIGURES / "redis_throughput.py"), *options, cwd=tmp_path))
    assert [row[:2] for row in rows] == [["1", "write"], ["1", "read"], ["2", "write"], ["2", "read"]]
    assert all(float(row[-1].replace(",", "")) > 0 for row in rows)
    assert_picture(tmp_path / "redis_throughput.png")


@pytest.mark.thorough
@needs_redis
def test_redis_throughput_of_a_given_server(tmp_path: Path) -> None:
    """No other program learns the password of a given server, and none of its keys is left."""
    program = f"""{WITH_REDIS.rpartition("    sys.exit")[0]}
    redis = redis_throughput.redis.Redis.from_url(server.url)
    redis.set("mine", 1)
    os.environ["REDIS_URL"] = server.url
    redis_throughput.main()
    print(redis.keys())
    redis.close()
    print(redis_throughput.given_server("redis://host:6379/1"))
"""
    printed = run("-c", program, "--workers", "1", "--transactions", "50", "--repeats", "1", cwd=tmp_path)
    assert [row[-1] for row in table_of(printed)] == ["–", "–"]
    *_, keys, shown = printed.splitlines()
    assert keys == "[b'mine']"
    assert shown == "Server(url='redis://host:6379/1', shown='redis://host:6379/1')"


@pytest.mark.thorough
@needs_redis
def test_what_redis_benchmark_shows_opens_only_its_own_keys(tmp_path: Path) -> None:
    """With the password among the arguments of redis-benchmark, nobody can read or configure anything else."""
    program = f"""{WITH_REDIS.rpartition("    sys.exit")[0]}
    redis = redis_throughput.redis
    with redis.Redis.from_url(server.shown) as client:
        for command in ("set key:1 x", "get figure:1", "config get requirepass", "flushall"):
            try:
                print(client.execute_command(*command.split()))
            except redis.exceptions.NoPermissionError:
                print("refused")
"""
    assert run("-c", program, cwd=tmp_path).splitlines() == ["True", "refused", "refused", "refused"]


@pytest.mark.thorough
def test_redis_throughput_without_a_server(tmp_path: Path) -> None:
    """Without redis-server the program says how to install it."""
    done = finished(str(FIGURES / "redis_throughput.py"), cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert "apt-get install redis-server" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("programs", "code", "said"),
    [
        ({"redis-server": "exit 9", "apt-get": "exit 9"}, 0, ""),
        ({}, 1, "no redis-server: it is not on PATH, and there is no apt-get to install it."),
        ({"apt-get": "echo no network >&2; exit 100", "id": "echo 0"}, 1, "apt-get could not install it (see above)."),
        ({"apt-get": "exit 9", "id": "echo 1000"}, 1, "to install it, run: sudo apt-get install redis-server."),
        ({"apt-get": 'test "$1" = -qq', "id": "echo 0"}, 0, ""),
    ],
    ids=["installed", "neither", "no network", "not root", "apt installs it"],
)
def test_ci_says_why_there_is_no_redis_server(tmp_path: Path, programs: dict[str, str], code: int, said: str) -> None:
    """CI calls apt-get only if it has to and may, and says in one line why there is no redis-server."""
    bash = shutil.which("bash")
    assert bash
    others = {"env": 'while [[ "$1" == *=* ]]; do shift; done; "$@"', "timeout": 'shift; "$@"'}
    for name, program in {**others, **programs}.items():
        (tmp_path / name).write_text(f"#!{bash}\n{program}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [bash, str(ROOT / ".ci" / "redis-server")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert bool(said) == bool(done.stderr)


@pytest.mark.thorough
def test_a_figure_refuses_a_number_of_workers_below_one(tmp_path: Path) -> None:
    """A wrong command line ends with code 2 and the reason."""
    done = finished(str(FIGURES / "flops.py"), "--workers", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "argument --workers: invalid positive value: '0'" in done.stderr


@pytest.mark.thorough
def test_a_bare_process_that_fails_ends_the_figure(tmp_path: Path) -> None:
    """The program shows the traceback of the process, and does not wait for it for ever."""
    program = "import measuring; measuring.in_bare_processes(int, ['1', 'x'])"
    done = finished("-c", program, cwd=tmp_path)
    assert done.returncode == 1
    assert "ValueError: invalid literal for int()" in done.stderr
    assert done.stderr.endswith("a bare process has failed; its own message is above\n")


@pytest.mark.thorough
def test_rates_of_a_run(tmp_path: Path) -> None:
    """Effective counts from the start to the last result; peak adds up the calls that ran at the same time."""
    program = """
from measuring import Compared, Run
run = Run(100.0, 110.0, [(101.0, 103.0, 4.0), (102.0, 104.0, 6.0), (104.0, 109.0, 10.0)])
print(run.effective, run.peak, run.rates())
print(Compared(run, Run(100.0, 105.0, [(100.0, 105.0, 20.0)])).efficiency, Compared(run, None).efficiency)
"""
    assert run("-c", program, cwd=tmp_path).splitlines() == [
        "2.0 5.0 [(1.0, 2.0), (2.0, 5.0), (3.0, 3.0), (4.0, 0.0), (4.0, 2.0), (9.0, 0.0)]",
        "0.5 None",
    ]


def test_published_results_are_those_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the programs print beside their own results is on the page, with its source."""
    monkeypatch.syspath_prepend(str(FIGURES))
    published = importlib.import_module("measuring").PUBLISHED
    monkeypatch.delitem(sys.modules, "measuring")
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    for figure in published.values():
        for _, what in figure:
            numbers = re.findall(r"[\d.,]+\d (?:TFLOPS|GB/s|transactions/s)", what)
            assert numbers
            assert [number for number in numbers if number not in page] == []


def test_every_example_is_run_here() -> None:
    """Every example has a test here, and a row in the examples' own page."""
    text = Path(__file__).read_text(encoding="utf-8")
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    programs = [
        path for path in EXAMPLES.rglob("*") if path.suffix in {".py", ".ipynb"} and path.name != "measuring.py"
    ]
    assert programs
    assert not [path.name for path in programs if f'"{path.name}"' not in text]
    assert not [path.name for path in programs if f"]({path.relative_to(EXAMPLES)})" not in page]


def test_examples_are_short() -> None:
    """No example has more than 80 lines; the figures are longer."""
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert not {name: count for name, count in lines.items() if count > 80}


def test_the_notebook_is_kept_without_outputs() -> None:
    """The notebook is stored without outputs."""
    text = (EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8")
    assert '"outputs": []' in text
    assert '"output_type"' not in text
