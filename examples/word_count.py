"""Count words: one map over the parts of a text, and one reduce over the counts.

Run it with ``python examples/word_count.py [FILE ...]``.

Without arguments it counts the words of this project's own documents. Each call is sent the text itself: a worker
cannot see the files of this machine.
"""

import re
import sys
from collections import Counter
from pathlib import Path

import pywren

LINES_PER_CALL = 100


def count_words(text):
    return Counter(re.findall(r"[a-z']+", text.lower()))


def add_up(counts):
    return sum(counts, Counter())


root = Path(__file__).parent.parent
paths = [Path(name) for name in sys.argv[1:]] or [root / "LICENSE", root / "README.md", *sorted(root.glob("docs/*.md"))]

lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
parts = ["\n".join(lines[start : start + LINES_PER_CALL]) for start in range(0, len(lines), LINES_PER_CALL)]

pwex = pywren.default_executor()
counted = pwex.map(count_words, parts)
total = pwex.reduce(add_up, counted).result()

print(f"{total.total()} words in {len(parts)} parts of {len(paths)} files")
for word, times in total.most_common(10):
    print(f"{times:6}  {word}")
