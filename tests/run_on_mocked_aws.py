"""Run a program with AWS mocked: its use of S3, here and on its workers, and its calls on Lambda.

usage: run_on_mocked_aws.py local|lambda PROGRAM [ARGUMENT]...
"""

import logging
import os
import runpy
import sys
from pathlib import Path

import boto3
import yaml
from moto.server import ThreadedMotoServer

import pywren.testing

BUCKET = "texts"
TEXTS = {"books/1": "the cat and the dog", "books/2": "The dog", "books/3": "a cat\nand a mouse", "other": "the rest"}


def main(where: str, program: str, *arguments: str) -> None:
    """Run a program as if from the command line, with or without a configuration file."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pywren.testing.mock_aws() as config:
        _put_texts(config["account"]["aws_region"])
        sys.argv = [program, *arguments]
        sys.path[0] = os.path.dirname(os.path.abspath(program))
        if where == "lambda":
            path = Path("config.yaml").absolute()
            path.write_text(yaml.safe_dump(config), encoding="utf-8")
            os.environ["PYWREN_CONFIG_FILE"] = str(path)
            runpy.run_path(program, run_name="__main__")
        else:
            _run_here(program)


def _put_texts(region: str) -> None:
    s3 = boto3.client("s3", region)
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": region})
    for key, text in TEXTS.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=text.encode())


def _run_here(program: str) -> None:
    """Run a program whose workers, which are separate processes, reach the mocked S3 over HTTP."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ["AWS_ENDPOINT_URL_S3"] = f"http://{host}:{port}"
        runpy.run_path(program, run_name="__main__")
    finally:
        server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
