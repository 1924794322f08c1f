"""Wrong uses of pywren, which every type checker must find; ``tests/test_types.py`` checks this file.

It is not run. Each ``type: ignore`` is an error if its line is none.
"""

from __future__ import annotations

import pywren


def word(number: int) -> str:
    return str(number)


def add(a: int, b: int) -> int:
    return a + b


async def fetch(url: str) -> bytes:
    return url.encode()


pwex = pywren.local_executor()

# The items are not what the function takes.
pwex.map(word, ["text"])  # type: ignore[arg-type]
pwex.map(fetch, [1])  # type: ignore[arg-type]
pwex.call_async(word, "text")  # type: ignore[arg-type]

# The function takes two arguments.
pwex.map(add, [(1, 2)])  # type: ignore[arg-type]

# There is no iterable, and no such option.
pwex.map(word, 5)  # type: ignore[call-overload]
pwex.map(word, [1], extra_environment={})  # type: ignore[call-overload]
pwex.map(word, [1], extra_env={"NUMBER": 1})  # type: ignore[arg-type, dict-item]
pwex.map(fetch, ["url"], retries="twice")  # type: ignore[call-overload]

# The result has another type.
number: int = pwex.call_async(word, 1).result()  # type: ignore[assignment]
page: str = pwex.call_async(fetch, "url").result()  # type: ignore[assignment]
numbers: list[int] = pywren.get_all_results(pwex.map(word, [1]))  # type: ignore[arg-type]
words: list[str] = pywren.get_all_results(pwex.map(word, [1]), return_exceptions=True)  # type: ignore[assignment]

# These are no futures of pywren.
pywren.wait([1])  # type: ignore[type-var]
pywren.get_all_results(["text"])  # type: ignore[arg-type]

# The other verbs check the function's arguments as well.
pwex.submit(add, 1)  # type: ignore[call-overload]
pwex.submit(add, 1, b="2")  # type: ignore[arg-type]
pwex.starmap(add, [(1, "2")])  # type: ignore[arg-type]
pwex.zip_map(add, 1)  # type: ignore[call-overload]
pwex.imap(word, ["text"])  # type: ignore[arg-type]
pwex.imap(word, [1], window="ten")  # type: ignore[call-overload]
pwex.imap_unordered(word, [1], windows=10)  # type: ignore[call-overload]
length: int = next(pwex.imap(word, [1]))  # type: ignore[assignment]
pywren.as_completed(["text"])  # type: ignore[type-var]

# The reduction takes something else.
pwex.reduce(word, pwex.map(len, ["a"]))  # type: ignore[arg-type]
pwex.map_reduce(word, [1], sum)  # type: ignore[arg-type]
pwex.map_reduce(word, ["text"], "".join)  # type: ignore[arg-type]
pwex.map_reduce(fetch, ["url"], "".join)  # type: ignore[arg-type, misc]
pwex.map_reduce(word, [1], "".join, groups=5)  # type: ignore[call-overload]
pwex.map_reduce(word, [1], "".join, backup=True)  # type: ignore[call-overload]

# The value of a future is not what the function takes, or another argument is not.
pwex.submit(add, pwex.call_async(word, 1), 2)  # type: ignore[call-overload]
pwex.submit(add, pwex.call_async(len, "a"), "2")  # type: ignore[call-overload]
pwex.submit(add, pwex.call_async(len, "a"))  # type: ignore[call-overload]
pwex.starmap(add, [(pwex.call_async(word, 1), 2)])  # type: ignore[arg-type]
pwex.starmap(add, [(pwex.call_async(len, "a"), 2, 3)])  # type: ignore[arg-type]

with pywren.PoolExecutor() as pool:
    pool.submit(add, 1)  # type: ignore[call-overload]
    pool.submit(add, 1, "2")  # type: ignore[call-overload]
    pool.submit(add, 1, 2, c=3)  # type: ignore[arg-type, call-arg]

# There is no such name.
pywren.no_such_name()  # type: ignore[attr-defined]
