"""Make thumbnails (Pillow) of all pictures in one bucket, and write them into another.

Run it with ``python examples/thumbnails.py SOURCE TARGET``. Without the names it makes two buckets, draws twelve
pictures into the first, and removes both in the end:
``python -m pywren.testing.emulator --packages pillow -- python examples/thumbnails.py``.

A file that is no picture does not stop the others: its call returns what is wrong. Needs ``pip install pillow boto3``;
on Lambda, Pillow in the runtime, and rights for both buckets in the function's role.
"""

import contextlib
import io
import sys
import uuid

import boto3
from PIL import Image, UnidentifiedImageError

import pywren

SIZE = (128, 128)


def make_thumbnail(key):
    """Read a picture, write its thumbnail, and return the key and the sizes before and after, or what is wrong."""
    s3 = boto3.client("s3")
    data = s3.get_object(Bucket=source, Key=key)["Body"].read()
    try:
        with Image.open(io.BytesIO(data)) as picture:
            before = picture.size
            picture.thumbnail(SIZE)  # keeps the proportions; Pillow itself refuses pictures that would fill the memory
            small = io.BytesIO()
            picture.convert("RGB").save(small, "JPEG", quality=85)
            after = picture.size
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        return key, str(error), None
    s3.put_object(Bucket=target, Key=f"{key}.jpg", Body=small.getvalue(), ContentType="image/jpeg")
    return key, before, after


@contextlib.contextmanager
def new_buckets():
    """Give two new buckets, the first with twelve pictures and a file that is none, and remove both."""
    s3 = boto3.resource("s3")
    region = s3.meta.client.meta.region_name  # S3 takes no name for us-east-1, its default
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    buckets = [s3.create_bucket(Bucket=f"thumbnails-{uuid.uuid4().hex[:12]}", **where) for _ in range(2)]
    try:
        for number in range(12):
            file = io.BytesIO()
            Image.new("RGB", (640, 200 + 40 * number), (20 * number, 90, 160)).save(file, "PNG")
            buckets[0].put_object(Key=f"{number:02}.png", Body=file.getvalue())
        buckets[0].put_object(Key="readme.txt", Body=b"not a picture")
        yield [bucket.name for bucket in buckets]
    finally:
        for bucket in buckets:
            bucket.objects.delete()
            bucket.delete()


pwex = pywren.default_executor()
with contextlib.nullcontext(sys.argv[1:3]) if len(sys.argv) > 2 else new_buckets() as (source, target):
    keys = [found.key for found in boto3.resource("s3").Bucket(source).objects.all()]
    for future in pywren.as_completed(pwex.map(make_thumbnail, keys)):
        key, before, after = future.result()
        print(f"{key}: {before} → {after}" if after else f"{key}: {before}")
    made = sum(1 for _ in boto3.resource("s3").Bucket(target).objects.all())
    print(f"{made} thumbnails of {len(keys)} files")
