"""Exceptions sent between processes: what is kept of every kind, and of their causes."""

from __future__ import annotations

import gc
import http.server
import io
import json
import pickle
import socket
import subprocess
import sys
import threading
import traceback
import urllib.error
import urllib.request
import weakref

import botocore.exceptions
import pytest

import pywren
from pywren.exceptions import ResultSerializationError
from pywren.pickling.packed import Packed
from pywren.pickling.packed_exceptions import dump_exception, load_exception
from pywren.pickling.remote_errors import RemoteTraceback

WAIT = 60.0
DEPTH = 1_000

needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="groups are new in 3.11")


@pytest.fixture(scope="module")
def executor():
    """Return an executor whose calls run in their own processes."""
    with pywren.local_executor() as made:
        yield made


def travel(error: BaseException) -> BaseException:
    """Send an exception to another process and back."""
    return load_exception(dump_exception(error).required_body())


# -- kinds -----------------------------------------------------------------------------------------------------


class NotThere(ValueError, FileNotFoundError):
    pass


class GroupNotThere(NotThere):
    pass


class LooksUpAndReads(KeyError, OSError):
    pass


class ReadsAndLooksUp(OSError, KeyError):
    def __init__(self, name, *, where):
        super().__init__(name)
        self.where = where


class LacksModule(ImportError, ValueError):
    __slots__ = ("__private", "empty", "maker")

    def __init__(self, text):
        super().__init__(text, name="n", path="p")
        self.maker, self.__private, self.empty = (lambda: 5), 2, None


class Hides(LacksModule):
    __slots__ = ("maker",)  # the base also has a slot of this name

    def __init__(self, text):
        super().__init__(text)
        LacksModule.maker.__set__(self, 11)


class Stops(StopIteration, LookupError):
    pass


class OwnArgs(Exception):
    @property
    def args(self):
        return ("not what was given",)

    def __init__(self, given):
        self.given = given


class OwnNew(Exception):
    def __new__(cls, *, needed):
        return super().__new__(cls, needed)

    def __init__(self, *, needed):
        self.needed = needed


class IgnoresArguments(OSError):
    def __init__(self, code, text):
        self.code = code


class Warns(UserWarning):
    def __init__(self, code, text):
        self.code = code


KINDS = [
    GroupNotThere("gone"),
    LooksUpAndReads("a", "b"),
    ReadsAndLooksUp("x", where=4),
    LacksModule("m"),
    Hides("m"),
    Stops(5),
    OwnArgs(3),
    OwnNew(needed=3),
    IgnoresArguments(1, "t"),
    Warns(1, "t"),
    StopIteration(7),
    GeneratorExit("g"),
    OSError(2, "no", "f", None, "g"),
    BlockingIOError(11, "x", 77),
    UnicodeDecodeError("utf8", b"\xff", 0, 1, "bad"),
    json.JSONDecodeError("m", "doc", 1),
    subprocess.CalledProcessError(3, "cmd", b"out", b"err"),
    socket.gaierror(3, "y"),
    botocore.exceptions.EndpointConnectionError(endpoint_url="u", error="e"),
]


def contents(error):
    """Return everything that can be seen of an exception."""
    names = [*vars(error), "errno", "filename", "filename2", "characters_written", "value", "name", "path", "start"]
    names += ["maker", "empty", "_LacksModule__private"]
    seen = {name: getattr(error, name, "unset") for name in names if name != "__notes__"}
    inner = [slot.__get__(error)() for slot in (vars(LacksModule)["maker"],) if type(error) is LacksModule]
    seen = {name: "a function" if callable(value) else value for name, value in seen.items()}
    return type(error), BaseException.args.__get__(error), str(error), seen, inner


@pytest.mark.parametrize("error", KINDS, ids=lambda error: type(error).__name__)
def test_every_kind_comes_back_as_it_was(error):
    """Type, arguments, text, attributes and slots are unchanged, whatever bases the class has."""
    assert contents(travel(error)) == contents(error)


def test_a_slot_below_one_of_the_same_name():
    """Each class's own slot keeps its own value."""
    back = travel(Hides("m"))
    assert LacksModule.maker.__get__(back) == 11
    assert back.maker() == 5


def raises(error):
    raise error


@pytest.mark.parametrize("kind", [GroupNotThere, LooksUpAndReads, Stops], ids=lambda kind: kind.__name__)
def test_several_built_in_bases_through_an_executor(executor, kind):
    """The exception of a call keeps its own class, its arguments and the remote line."""
    error = executor.call_async(raises, kind("gone")).exception(WAIT)
    assert (type(error), error.args) == (kind, ("gone",))
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["raises"]


@needs_groups
def test_groups_with_a_signature_of_their_own():
    """A group is rebuilt with its members, whatever its ``__new__`` takes."""

    class Failures(ExceptionGroup):  # noqa: F821 - 3.11
        def __new__(cls, errors, code):
            made = super().__new__(cls, "failures", errors)
            made.code = code
            return made

        def derive(self, errors):
            return Failures(errors, self.code)

    back = travel(Failures([ValueError(1), Failures([OSError(2, "q")], 7)], 5))
    assert (back.code, back.message, back.exceptions[1].code) == (5, "failures", 7)
    assert [type(error) for error in back.exceptions] == [ValueError, Failures]
    assert type(back.exceptions[1].exceptions[0]) is FileNotFoundError
    assert back.split(ValueError)[1].code == 5


@needs_groups
def test_a_member_that_cannot_travel():
    """A group comes back nevertheless; a description replaces the member."""
    back = travel(ExceptionGroup("g", [ValueError(1), Held("reason")]))  # noqa: F821 - 3.11
    assert [type(error) for error in back.exceptions] == [ValueError, ResultSerializationError]
    assert "Held: reason" in str(back.exceptions[1])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in 3.11")
def test_notes_of_an_exception_that_reduces_itself():
    """``add_note`` works on a class whose own reduction ignores notes."""
    error = json.JSONDecodeError("m", "doc", 1)
    error.add_note("look here")
    assert travel(error).__notes__ == ["look here"]


def fetch(address):
    urllib.request.urlopen(address)


def test_an_exception_that_holds_a_connection(executor):
    """Row 273: ``HTTPError`` comes back with its code and headers; the response that it holds is closed."""

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(418, "short and stout")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        error = executor.call_async(fetch, f"http://127.0.0.1:{server.server_port}/").exception(WAIT)
        thread.join()
    assert type(error) is urllib.error.HTTPError
    assert (error.code, error.reason, error.headers["Connection"]) == (418, "short and stout", "close")
    with pytest.raises(ValueError, match="closed"):
        error.read()


@pytest.mark.parametrize("mode", ["r", "rb", "wb", "r+b"])
def test_an_exception_that_holds_a_file(mode, tmp_path):
    """All kinds of files come back closed, and in-memory files come back unchanged."""
    (tmp_path / "file").write_text("here")
    error = OSError("cannot read on")
    with open(tmp_path / "file", mode) as error.file:
        error.memory = io.StringIO("kept")
        back = travel(error)
    assert back.file.closed
    assert back.memory.getvalue() == "kept"


# -- types that reduce to others


class Narrow(ValueError):
    def __reduce__(self):
        return ValueError, self.args


class Elsewhere(Exception):
    def __reduce__(self):
        return LookupError, ("for all who lack Elsewhere",)


def client_error(_):
    import boto3

    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    raise client.exceptions.NoSuchKey({"Error": {"Code": "NoSuchKey", "Message": "m"}}, "GetObject")


def test_a_reduction_to_a_base(executor):
    """Row 271: ``client.exceptions.NoSuchKey`` comes back as the ``ClientError`` that it reduces itself to."""
    error = executor.call_async(client_error, 0).exception(WAIT)
    assert type(error) is botocore.exceptions.ClientError
    assert error.response["Error"]["Code"] == "NoSuchKey"
    assert "client_error" in "".join(traceback.format_tb(error.__traceback__))


@pytest.mark.parametrize(("error", "kind"), [(Narrow("n"), ValueError), (Elsewhere("e"), LookupError)])
def test_a_reduction_to_another_type(error, kind):
    """The reader gets the type that the author of the class chose."""
    assert type(travel(error)) is kind


# -- what they were raised from --------------------------------------------------------------------------------


class Held(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, text="held"):
        super().__init__(text)
        self.lock = threading.Lock()


class BecomesInt(Exception):
    def __reduce__(self):
        return int, ("5",)


class Exits(Exception):
    def __reduce__(self):
        return sys.exit, (3,)


def raises_from(kind):
    try:
        try:
            raise KeyError("the true reason")
        except KeyError:
            raise kind("in between")  # noqa: B904 - the test is about the context
    except kind as error:
        raise ValueError("outer") from error


@pytest.mark.parametrize("kind", [Held, BecomesInt, Exits], ids=lambda kind: kind.__name__)
def test_a_cause_that_cannot_travel(executor, kind):
    """Row 270: a description replaces the cause, and the cause's own cause is kept."""
    error = executor.call_async(raises_from, kind).exception(WAIT)
    assert type(error) is ValueError
    assert type(error.__cause__) is ResultSerializationError
    for words in (f"{kind.__name__}: in between", "cannot be sent back", "in raises_from"):
        assert words in str(error.__cause__)
    assert repr(error.__cause__.__context__) == "KeyError('the true reason')"
    assert "the true reason" in "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "error", [ValueError("x", Held("r")), ValueError([Held("r")]), KeyError(ValueError(Held("r")))], ids=str
)
def test_an_exception_held_by_another_that_cannot_travel(error):
    """The outer exception comes back unchanged, with a description inside it."""
    back = travel(error)
    assert type(back) is type(error)
    assert "Held: r" in str(back.args)


def test_an_attribute_that_is_an_exception_and_cannot_travel():
    """An exception in an attribute such as ``orig`` or ``reason`` does not keep its wrapper from being sent."""
    error = OSError("wrapped")
    error.orig = Held("reason")
    assert "Held: reason" in str(travel(error).orig)


def deep(count):
    error = KeyError("innermost")
    for number in range(count):
        outer = Held(number) if number == 3 else ValueError(number)
        outer.__context__, error = error, outer
    raise TypeError("outermost") from error


def test_a_chain_of_a_thousand(executor):
    """A deep chain comes back whole."""
    chain = [executor.call_async(deep, DEPTH).exception(WAIT)]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)
    assert [type(error) for error in chain if not isinstance(error, RemoteTraceback)] == [
        TypeError,
        *(ResultSerializationError if number == 3 else ValueError for number in reversed(range(DEPTH))),
        KeyError,
    ]


def test_a_chain_of_two_thousand_and_more_is_cut():
    """An endless chain loses neither its exception nor the client's memory."""
    error = ValueError("first")
    for number in range(5_000):
        outer = ValueError(number)
        outer.__context__, error = error, outer
    packed = dump_exception(error)
    assert len(packed.required_body().data) < 2_000_000
    assert load_exception(packed.required_body()).args == (4_999,)


def test_a_chain_that_is_a_loop():
    """Exceptions that are each other's cause come back as a loop."""
    first, second = ValueError("first"), KeyError("second")
    first.__context__, second.__cause__ = second, first
    back = travel(first)
    assert type(back.__context__) is KeyError
    assert back.__context__.__cause__ is back


def test_one_exception_in_two_places_stays_one():
    """When a cause, context or argument are the same exception, they stay the same."""
    shared = KeyError("shared")
    error = ValueError(shared)
    error.__cause__ = error.__context__ = shared
    back = travel(error)
    assert back.__cause__ is back.__context__ is back.args[0]


def test_a_cause_whose_class_the_client_lacks(monkeypatch):
    """Row 272: the exception itself comes back, and the text of the remote traceback replaces the rest."""

    def fail():
        try:
            raise Narrower("a library's")
        except Narrower as error:
            raise ValueError("outer") from error

    class Narrower(Exception):
        pass

    Narrower.__module__, Narrower.__qualname__ = __name__, "Narrower"
    monkeypatch.setattr(sys.modules[__name__], "Narrower", Narrower, raising=False)
    try:
        fail()
    except ValueError as error:
        packed = dump_exception(error)
    monkeypatch.delattr(sys.modules[__name__], "Narrower")
    back = load_exception(packed.required_body())
    assert (type(back), back.args) == (ValueError, ("outer",))
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "Narrower: a library's" in str(back.__cause__)


def test_properties_that_hide_what_the_interpreter_keeps():
    """If a class has its own ``__context__`` property, the interpreter's chain is used."""

    class Hiding(Exception):
        @property
        def __context__(self):
            raise SystemError("do not look")

    error = Hiding("h")
    BaseException.__context__.__set__(error, KeyError("hidden"))
    back = travel(error)
    assert type(BaseException.__context__.__get__(back)) is KeyError


def test_a_damaged_pickle_is_an_error_of_the_call():
    """A pickle that is damaged or does not contain an exception is reported as such."""
    whole = dump_exception(ValueError("x")).required_body().data
    for data in (whole[:10], b"", b"N."):
        assert isinstance(load_exception(Packed(data)), ResultSerializationError)


def test_a_kept_exception_keeps_no_frame_of_the_client(executor):
    """Its traceback does not refer to frames of the receiving thread, which hold processes and sockets."""
    error = executor.call_async(raises, ValueError("gone")).exception(WAIT)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert frames
    for frame in frames:
        callers = [caller.f_code.co_filename for caller, _ in traceback.walk_stack(frame)]
        assert not [name for name in callers if "/pywren/client/" in name or "/pywren/worker/" in name]


class Box:
    """An object in a pickle that keeps what its unpickling raised."""


class Unpicklable(Exception):
    """An exception class of its own, because built-in exceptions cannot be weakly referenced."""


def fail_with(box):
    box.error = Unpicklable("cannot be brought back")
    raise box.error


class FailsWithBox(Exception):
    def __reduce__(self):
        return fail_with, (Box(),)


def test_what_cannot_be_unpickled_is_freed():
    """An exception raised during unpickling is freed together with the error that reports it."""
    error = load_exception(Packed(pickle.dumps((FailsWithBox(), ""))))
    assert type(error) is ResultSerializationError
    gone = weakref.ref(error.__cause__)
    del error
    gc.collect()
    assert gone() is None
