"""Runs moto's S3 server on a free port of this machine, prints the port, and ends when standard input ends. Besides S3, it
answers:

    GET /_test/object?KEY   the content of an object in the bucket "models"; PUT stores it
    GET /_test/uploads      the number of uploads that are neither complete nor aborted
"""

import sys
import threading

import boto3
from botocore.exceptions import ClientError
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def client():
    """A client with credentials: without, moto answers with objects to their owners alone."""
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.port}", **keys)


class WithTests:
    """Passes requests on to moto."""

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        if path == "/_test/object" and environ["REQUEST_METHOD"] == "PUT":
            content = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            client().put_object(Bucket="models", Key=query, Body=content)
            content = b""
        elif path == "/_test/object":
            try:
                content = client().get_object(Bucket="models", Key=query)["Body"].read()
            except ClientError:
                start_response("404 Not Found", [("Content-Length", "0")])
                return [b""]
        elif path == "/_test/uploads":
            content = str(len(client().list_multipart_uploads(Bucket="models").get("Uploads", []))).encode()
        else:
            return self.app(environ, start_response)
        start_response("200 OK", [("Content-Length", str(len(content)))])
        return [content]


server = make_server("127.0.0.1", 0, WithTests(DomainDispatcherApplication(create_backend_app)), threaded=True)
print(server.port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
