"""``Reference``: an outcome that an argument stands for."""

from __future__ import annotations

from hypothesis import given
from wire_values import references

from pywren.wire.references import Reference, decode_references, encode_references


@given(references=references)
def test_a_list_of_references_survives_its_encoding(references: tuple[Reference, ...]) -> None:
    """The object that holds a long list of references decodes to that list."""
    assert decode_references(encode_references(references)) == references
