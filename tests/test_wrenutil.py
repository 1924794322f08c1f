"""Small helpers with 0.4's names."""

from __future__ import annotations

import io
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywren import wrenutil


def test_ids_are_random_uuids() -> None:
    """A callset's id is a random uuid4 as text."""
    ids = {wrenutil.create_callset_id(), wrenutil.create_callset_id(), wrenutil.uuid_str()}
    assert len(ids) == 3
    assert {uuid.UUID(text).version for text in ids} == {4}


@pytest.mark.parametrize(("index", "call_id"), [(0, "00000"), (42, "00042"), (99999, "99999"), (123456, "123456")])
def test_a_call_id_is_the_index_in_five_digits(index: int, call_id: str) -> None:
    """A call's id is its position in the map."""
    assert wrenutil.create_call_id(index) == call_id


@given(st.binary(max_size=50))
def test_base64_round_trip(data: bytes) -> None:
    """Bytes survive being encoded as ASCII text."""
    text = wrenutil.bytes_to_b64str(data)
    assert text.isascii()
    assert wrenutil.b64str_to_bytes(text) == data


@pytest.mark.parametrize("text", ["é", "a", "a b=", "####"])
def test_text_that_is_not_base64_is_an_error(text: str) -> None:
    """Text that is not base64 is refused instead of being half decoded."""
    with pytest.raises(ValueError, match="base64"):
        wrenutil.b64str_to_bytes(text)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://bucket/key", ("bucket", "key")),
        ("s3://my.bucket-1/a/b c/d?x=1#y", ("my.bucket-1", "a/b c/d?x=1#y")),
        ("s3://bucket//odd", ("bucket", "/odd")),
    ],
)
def test_an_s3_url_is_a_bucket_and_a_key(url: str, parts: tuple[str, str]) -> None:
    """Everything after the first slash is the key, as in S3."""
    assert wrenutil.split_s3_url(url) == parts


@pytest.mark.parametrize("url", ["", "bucket/key", "s3:bucket/key", "http://bucket/key", "s3:///key", "s3://bucket/"])
def test_a_bad_s3_url_is_a_value_error(url: str) -> None:
    """The error has 0.4's words, ``is not valid``."""
    with pytest.raises(ValueError, match="is not valid"):
        wrenutil.split_s3_url(url)


def test_the_attributes_of_a_simpledb_item() -> None:
    """Pairs of name and value become a dict."""
    item = {"Name": "i", "Attributes": [{"Name": "a", "Value": "1"}, {"Name": "b", "Value": "2"}]}
    assert wrenutil.sdb_to_dict(item) == {"a": "1", "b": "2"}


def test_a_wrapped_body_reads_like_a_file() -> None:
    """Reading advances the position."""
    body = wrenutil.WrappedStreamingBody(io.BytesIO(b"one\ntwo\nrest"), 12)
    assert (body.tell(), body.read(2), body.tell()) == (0, b"on", 2)
    assert (body.readline(), body.readline()) == (b"e\n", b"two\n")
    assert (body.read(), body.read(), body.readline()) == (b"rest", b"", b"")


@pytest.mark.parametrize(("offset", "whence"), [(4, 0), (0, 1), (-8, 2)])
def test_a_wrapped_body_accepts_a_seek_that_stays(offset: int, whence: int) -> None:
    """Archive readers get their position by seeking to it."""
    body = wrenutil.WrappedStreamingBody(io.BytesIO(b"x" * 12), 12)
    body.read(4)
    body.seek(offset, whence)
    assert body.tell() == 4


@pytest.mark.parametrize(("offset", "whence"), [(0, 0), (1, 1), (0, 2), (0, 9)])
def test_a_wrapped_body_refuses_a_seek_that_moves(offset: int, whence: int) -> None:
    """A stream cannot go back, and an error is better than wrong bytes."""
    body = wrenutil.WrappedStreamingBody(io.BytesIO(b"x" * 12), 12)
    body.read(4)
    with pytest.raises(ValueError, match="cannot seek"):
        body.seek(offset, whence)
