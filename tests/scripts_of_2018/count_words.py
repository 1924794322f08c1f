"""Count the words of all texts under a prefix of a bucket: map over keys, then reduce.

usage: count_words.py BUCKET PREFIX
"""
from __future__ import print_function

import sys
from collections import Counter

import boto3

import pywren

BUCKET, PREFIX = sys.argv[1:]


def count_words(key):
    s3 = boto3.client("s3")
    text = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read().decode("utf-8")
    return Counter(text.lower().split())


def merge(counters):
    total = Counter()
    for c in counters:
        total.update(c)
    return total


if __name__ == "__main__":
    listing = boto3.client("s3").list_objects(Bucket=BUCKET, Prefix=PREFIX)
    keys = [obj["Key"] for obj in listing["Contents"]]

    wrenexec = pywren.default_executor()
    futures = wrenexec.map(count_words, keys)
    total = wrenexec.reduce(merge, futures).result()

    # the sum is the same when it is made here
    assert total == merge(pywren.get_all_results(futures))

    for word, count in sorted(total.items(), key=lambda item: (-item[1], item[0])):
        print("{:5d} {}".format(count, word))
