"""An S3 server on this machine, moto's, that counts requests and can refuse parts of uploads.

Prints its port, and runs until its standard input ends. Besides S3, it answers:

    GET /_test/log          the requests since the last call: [[method, path with query, bytes of the answer], ...]
    GET /_test/refuse?N     refuse part N of every upload from now on; 0 for none
    GET /_test/object?KEY   the content of an object in the bucket "models"
    GET /_test/uploads      the number of uploads that are neither complete nor aborted
"""

import json
import sys
import threading
from urllib.parse import parse_qs

import boto3
from botocore.exceptions import ClientError
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

log = []
lock = threading.Lock()
refused = "0"


def client():
    """A client with credentials: without, moto answers with objects to their owners alone."""
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.port}", **keys)


class Counted:
    """Passes requests on to moto."""

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        global refused
        path, query = environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        if path == "/_test/log":
            with lock:
                text = json.dumps(log)
                log.clear()
            start_response("200 OK", [("Content-Length", str(len(text)))])
            return [text.encode()]
        if path == "/_test/refuse":
            refused = query
            start_response("200 OK", [("Content-Length", "0")])
            return [b""]
        if path == "/_test/object":
            try:
                content = client().get_object(Bucket="models", Key=query)["Body"].read()
            except ClientError:
                start_response("404 Not Found", [("Content-Length", "0")])
                return [b""]
            start_response("200 OK", [("Content-Length", str(len(content)))])
            return [content]
        if path == "/_test/uploads":
            text = str(len(client().list_multipart_uploads(Bucket="models").get("Uploads", [])))
            start_response("200 OK", [("Content-Length", str(len(text)))])
            return [text.encode()]
        part = parse_qs(query).get("partNumber", [None])[0]
        if part == refused and environ["REQUEST_METHOD"] == "PUT":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            body = [b"<Error><Code>AccessDenied</Code><Message>refused by the test</Message></Error>"]
        else:
            body = list(self.app(environ, start_response))
        with lock:
            target = path + ("?" + query if query else "")
            log.append([environ["REQUEST_METHOD"], target, sum(map(len, body))])
        return body


app = Counted(DomainDispatcherApplication(create_backend_app))
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
