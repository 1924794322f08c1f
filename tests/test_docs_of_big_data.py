"""The functions of docs/big-data.md that divide objects of lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import pywren
import pywren.testing

PAGE = (Path(__file__).parent.parent / "docs" / "big-data.md").read_text(encoding="utf-8")
[FUNCTIONS] = re.findall(r"^```python\n(import contextlib\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
[USE] = re.findall(r"^```\n(def count_lines.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

OBJECTS = {
    "logs/blank": b"\n\n\nx\n\n",
    "logs/empty": b"",
    "logs/long": b"0123456789" * 20 + b"\nshort\n",
    "logs/unended": b"one\ntwo\nthree",
    "logs/windows": b"a\r\nbb\r\n\r\nccc\r\n",
    "other/no": b"not under the prefix\n",
}

pytestmark = pytest.mark.moto


@pytest.fixture(scope="module")
def page() -> Any:
    """Return the names that the page defines, in an account with some objects."""
    with pywren.testing.mock_aws() as config:
        names: dict[str, Any] = {}
        exec(compile(FUNCTIONS, "big-data.md", "exec"), names)
        names["config"] = config
        s3 = names["boto3"].client("s3", region_name=config["account"]["aws_region"])
        names["BUCKET"] = config["s3"]["bucket"]
        for key, data in OBJECTS.items():
            s3.put_object(Bucket=names["BUCKET"], Key=key, Body=data)
        yield names


@pytest.mark.parametrize("size", [*range(1, 9), 200, 201, 10_000])
def test_each_line_belongs_to_one_chunk(page: Any, size: int) -> None:
    """Whatever the size of the chunks, the lines of an object come whole, once, and in order."""
    found: dict[str, list[bytes]] = {}
    for key, start, stop in page["chunks"]("logs/", size):
        assert 0 < stop - start <= size
        found.setdefault(key, []).extend(page["lines_of"](key, start, stop))
    wanted = {key: data.splitlines(keepends=True) for key, data in OBJECTS.items() if key.startswith("logs/") and data}
    assert found == wanted


def test_the_map_over_chunks(page: Any) -> None:
    """The map of the page gives one number for each object that is not empty."""
    with pywren.default_executor(config=page["config"]) as pwex:
        names = {**page, "pwex": pwex}
        exec(compile(USE.replace("64 * 2**20", "50"), "big-data.md", "exec"), names)
        assert pywren.get_all_results(names["futures"]) == [5, 2, 3, 4]
