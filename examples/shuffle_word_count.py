"""Count words with a real shuffle: mappers write a part for each reducer into S3, and reducers read their parts.

Run it with ``python -m pywren.testing.emulator -- python examples/shuffle_word_count.py [FILE ...]`` on an emulated
AWS, or with ``python examples/shuffle_word_count.py [FILE ...]`` on AWS.

The counts never pass through this program, so they may be bigger than its memory: it gets only the most frequent words
of each reducer. A call that runs twice writes the same objects again, so repeats do no harm.
"""

import json
import re
import sys
import uuid
import zlib
from collections import Counter
from pathlib import Path

import boto3

import pywren

REDUCERS = 4
LINES_PER_CALL = 200
MOST_FREQUENT = 10


def map_words(item):
    """Count the words of one part of the text, and write an object for each reducer."""
    index, text = item
    counts = [Counter() for _ in range(REDUCERS)]
    for word in re.findall(r"[a-z']+", text.lower()):
        counts[zlib.crc32(word.encode()) % REDUCERS][word] += 1  # not hash(), which differs from process to process
    s3 = boto3.client("s3")
    for reducer, counted in enumerate(counts):
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{reducer}/{index}", Body=json.dumps(counted).encode())


def reduce_words(reducer):
    """Add up what all mappers wrote for this reducer; return the total and the most frequent words."""
    s3 = boto3.client("s3")
    total = Counter()
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/{reducer}/"):
        for found in page.get("Contents", ()):
            total.update(json.load(s3.get_object(Bucket=bucket, Key=found["Key"])["Body"]))
    return total.total(), total.most_common(MOST_FREQUENT)


root = Path(__file__).parent.parent
paths = [Path(name) for name in sys.argv[1:]] or [root / "README.md", *sorted(root.glob("docs/*.md"))]
lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
parts = ["\n".join(lines[start : start + LINES_PER_CALL]) for start in range(0, len(lines), LINES_PER_CALL)]

pwex = pywren.default_executor()
bucket = pwex.config.get("s3", {}).get("bucket") or sys.exit("this needs a bucket: run it on AWS or an emulated AWS")
prefix = f"examples/shuffle-{uuid.uuid4().hex}"
try:
    pywren.get_all_results(pwex.map(map_words, list(enumerate(parts))))  # every part is there before a reducer looks
    results = pywren.get_all_results(pwex.map(reduce_words, range(REDUCERS)))
finally:
    pwex.cancel_all()  # after an error, so that no call writes any more
    boto3.resource("s3").Bucket(bucket).objects.filter(Prefix=prefix).delete()

print(f"{sum(total for total, _ in results)} words in {len(parts)} parts, counted by {REDUCERS} reducers")
words = sorted((word for _, most in results for word in most), key=lambda word: (-word[1], word[0]))
for word, times in words[:MOST_FREQUENT]:
    print(f"{times:6}  {word}")
