"""Sort records through S3 as TeraSort does: sample, divide by ranges of keys, sort each range, and check the whole.

Run it with ``python -m pywren.testing.emulator -- python examples/terasort.py [WORKERS RECORDS]`` on an emulated AWS,
or with ``python examples/terasort.py 1000 1000000`` on AWS for 100 GB: so many calls, and records for each of them.

A record has 100 bytes, and the first 10 are its key. The check is TeraValidate's: each part is in order, the parts
follow each other, and no record was lost, made or changed. The program itself sees samples and checksums only.
"""

import random
import sys
import zlib
from bisect import bisect_right

import boto3

import pywren

RECORD, KEY, SAMPLES = 100, 10, 100  # bytes of a record, bytes of its key, keys of a sample


def get(s3, name):
    data = s3.get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read()
    return [data[at : at + RECORD] for at in range(0, len(data), RECORD)]


def put(s3, name, records):
    s3.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"".join(records))


def generate(index):
    """Write random records; return their count and checksum, and a sample of their keys."""
    generator = random.Random(index)
    records = [generator.randbytes(RECORD) for _ in range(count)]
    put(boto3.client("s3"), f"input/{index}", records)
    return count, sum(map(zlib.crc32, records)), [record[:KEY] for record in records[:SAMPLES]]


def divide(index):
    """Write an object for each range of keys."""
    s3, parts = boto3.client("s3"), [[] for _ in range(workers)]
    for record in get(s3, f"input/{index}"):
        parts[bisect_right(bounds, record[:KEY])].append(record)
    for number, part in enumerate(parts):
        put(s3, f"divided/{number}/{index}", part)


def sort(number):
    """Sort all records of one range."""
    s3 = boto3.client("s3")
    records = (record for index in range(workers) for record in get(s3, f"divided/{number}/{index}"))
    put(s3, f"output/{number}", sorted(records))


def validate(number):
    """Return the count and checksum of a part's records, the first and the last, and whether it is in order."""
    records = get(boto3.client("s3"), f"output/{number}")
    return len(records), sum(map(zlib.crc32, records)), records[:1] + records[-1:], records == sorted(records)


workers, count = map(int, sys.argv[1:3] or (4, 10_000))
pwex = pywren.default_executor()
bucket = pwex.config.get("s3", {}).get("bucket") or sys.exit("this needs a bucket: run it on AWS or an emulated AWS")
prefix = f"examples/terasort-{random.randbytes(8).hex()}"
try:
    inputs = pywren.get_all_results(pwex.map(generate, range(workers)))
    sample = sorted(key for _, _, keys in inputs for key in keys)
    bounds = [sample[len(sample) * number // workers] for number in range(1, workers)]
    pywren.get_all_results(pwex.map(divide, range(workers)))
    pywren.get_all_results(pwex.map(sort, range(workers)))
    outputs = pywren.get_all_results(pwex.map(validate, range(workers)))
finally:
    pwex.cancel_all()  # after an error, so that no call writes any more
    boto3.resource("s3").Bucket(bucket).objects.filter(Prefix=prefix).delete()

ends = [record for _, _, both, _ in outputs for record in both]
in_order = ends == sorted(ends) and all(ordered for *_, ordered in outputs)
before, after = ([sum(each[at] for each in results) for at in (0, 1)] for results in (inputs, outputs))
print(f"{after[0]} records in {workers} parts; in order: {in_order}; the records of the input: {before == after}")
sys.exit(not in_order or before != after)
