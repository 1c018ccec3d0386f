"""Audits, converts or merges every checkpoint below a prefix in S3 or a folder, on a Ray cluster.

    python fleet.py INPUT OUTPUT [--program PATH] [--per-node N] [--report FILE] -- COMMAND OPTION...

INPUT and OUTPUT are s3://BUCKET/PREFIX or folders that all nodes share. COMMAND is convert, merge-vae or audit (without
OUTPUT's files). Each file is a task: one process of trinart-ckpt. Ray places the tasks, starts nodes for them, and retries
those whose node or worker died. On each node, at most N files are worked on at a time (1 by default: a disk).

Running the same again writes nothing: outputs are written with --update, which skips what is up to date. An audit has no
outputs; its results are kept below OUTPUT/.fleet, with the version of each input. The results are JSON lines in FILE
(fleet.jsonl), in the order of the names; failures are listed at the end, and the exit code is 1. With audit, the lines are
also collected into a page, FILE.html.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import ray

ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth")
PAGE = pathlib.Path(__file__).resolve().parents[2] / "src/report/audit/page.html"


class Folder:
    """Files in a folder."""

    def __init__(self, path):
        self.path = pathlib.Path(path)

    def list(self):
        files = (path for path in self.path.rglob("*") if path.is_file() and ".fleet" not in path.parts)
        return {path.relative_to(self.path).as_posix(): stamp(path) for path in files}

    def address(self, name):
        return str(self.path / name)

    def read(self, name):
        path = self.path / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name, content):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        os.replace(file.name, path)

    def prepare(self, name):
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)


def stamp(path):
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"


class Bucket:
    """Objects below a prefix. boto3 reads the same environment variables as trinart-ckpt."""

    def __init__(self, address):
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self.bucket, self.prefix = bucket, prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""

    def client(self):
        import boto3

        return boto3.client("s3")

    def list(self):
        found = {}
        for page in self.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix):
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(self.prefix)
                if not name.startswith(".fleet/"):
                    # Not every store lists tags.
                    found[name] = f"{entry['Size']} {entry.get('ETag') or entry['LastModified']}"
        return found

    def address(self, name):
        return f"s3://{self.bucket}/{self.prefix}{name}"

    def read(self, name):
        client = self.client()
        try:
            return client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        except client.exceptions.NoSuchKey:
            return None

    def write(self, name, content):
        self.client().put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content)

    def prepare(self, name):
        pass


def place(address):
    return Bucket(address) if address.startswith("s3://") else Folder(address)


@contextlib.contextmanager
def slot(node, count):
    """Waits until fewer than `count` files are worked on by this node. The lock ends with the process that holds it."""
    while True:
        for number in range(count):
            with open(os.path.join(tempfile.gettempdir(), f"trinart-fleet-{node}-{number}.lock"), "w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        time.sleep(0.2)


def record_of(name):
    return f".fleet/{name}.json"


def output_of(name, command):
    """The name of the output: that of the input, with the extension of the format that the command names."""
    if "--to" in command:
        ending = {"safetensors": ".safetensors", "ckpt": ".ckpt"}[command[command.index("--to") + 1]]
        return str(pathlib.PurePosixPath(name).with_suffix(ending))
    return name


@ray.remote(num_cpus=1, max_retries=5, retry_exceptions=False)
def work(source, target, name, version, command, recipe, program, per_node):
    """Works on one file. Returns its record."""
    inputs, outputs = place(source), place(target)
    is_audit = command[0] == "audit"
    arguments = [program, command[0], inputs.address(name), *command[1:], "--json"]
    if not is_audit:
        output = output_of(name, command)
        outputs.prepare(output)
        # A task that died behind its output has left it whole, with the record that --update looks for.
        arguments += ["-o", outputs.address(output), "--update"]
    node = ray.get_runtime_context().get_node_id()
    with slot(node, per_node):
        ran = subprocess.run(arguments, capture_output=True, text=True)
    record = {"file": name, "input": version, "recipe": recipe, "node": node, "exit": ran.returncode}
    record["report"] = json.loads(ran.stdout) if ran.stdout else None
    # An audit with findings exits with 1.
    if ran.returncode != 0 and not (is_audit and ran.returncode == 1):
        record["error"] = ran.stderr.strip()
    elif is_audit:
        outputs.write(record_of(name), json.dumps(record).encode())
    return record


def current(outputs, name, version, recipe):
    """The record of a file whose audit is kept; None for one that is to be worked on."""
    content = outputs.read(record_of(name)) if recipe.split(" ")[0] == "audit" else None
    record = json.loads(content) if content else None
    return record if record and (record["input"], record["recipe"]) == (version, recipe) else None


def is_up_to_date(record):
    return record["report"] is not None and record["report"].get("skipped") == "up-to-date"


def write_page(path, records):
    """Writes the audit's page for browsers, with the files and findings of all records."""
    reports = [record["report"] for record in records if record["report"]]
    data = {
        "files": [file for report in reports for file in report["files"]],
        "findings": [finding for report in reports for finding in report["findings"]],
        "bytes": sum(report["bytes"] for report in reports),
        "deep": any(report["deep"] for report in reports),
    }
    # Names of files must not end the script, nor begin a comment.
    text = json.dumps(data).replace("<", "\\u003c")
    path.write_text(PAGE.read_text().replace("@DATA@", text))


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1].strip())
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--program", default="trinart-ckpt")
    parser.add_argument("--per-node", type=int, default=1)
    parser.add_argument("--report", type=pathlib.Path, default=pathlib.Path("fleet.jsonl"))
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    recipe = " ".join(options.command)
    inputs, outputs = place(options.input), place(options.output)
    files = {name: version for name, version in sorted(inputs.list().items()) if name.endswith(ENDINGS)}
    records = {name: current(outputs, name, version, recipe) for name, version in files.items()}
    todo = [name for name, record in records.items() if record is None]
    print(f"{len(files)} files, {len(files) - len(todo)} audited before", flush=True)
    if todo:
        # An address of a cluster comes from RAY_ADDRESS; without one, Ray starts on this machine.
        ray.init(log_to_driver=False)
        names = {
            work.remote(
                options.input, options.output, name, files[name], options.command, recipe, options.program, options.per_node
            ): name
            for name in todo
        }
        waiting = list(names)
        while waiting:
            (done, *_), waiting = ray.wait(waiting)
            name = names[done]
            try:
                records[name] = ray.get(done)
            except ray.exceptions.RayError as error:
                text = f"the task failed: {type(error).__name__}"
                records[name] = {"file": name, "report": None, "error": text}
            state = "up to date" if is_up_to_date(records[name]) else "done"
            print(f"{name}: {records[name].get('error') or state}", flush=True)
    lines = [json.dumps(record) for record in records.values()]
    options.report.write_text("".join(line + "\n" for line in lines))
    if options.command[0] == "audit":
        write_page(options.report.with_suffix(".html"), records.values())
    failed = [record for record in records.values() if "error" in record]
    for record in failed:
        print(f"failed: {record['file']}: {record['error']}")
    same = len(files) - len(todo) + sum(is_up_to_date(records[name]) for name in todo)
    print(f"{len(files) - same - len(failed)} done, {same} up to date, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
