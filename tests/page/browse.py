#!/usr/bin/env python3
"""Opens a page in headless Chromium and uses it as a person does: real clicks and keys.

Usage: browse.py CHROMIUM PAGE [SCREENSHOT]. Prints what it found as JSON. Needs Python's standard library only: Chromium is
driven over a pipe.
"""
import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


class Browser:
    def __init__(self, program: str, profile: str):
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()

        # Chromium reads from descriptor 3 and writes to 4. The copies keep clear of them.
        moved = [os.dup(to_read), os.dup(from_write)]
        while min(moved) < 5:
            moved = [os.dup(it) for it in moved]

        def connect():
            os.dup2(moved[0], 3)
            os.dup2(moved[1], 4)

        arguments = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                     "--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}",
                     "--remote-debugging-pipe", "--window-size=1400,900", "about:blank"]
        self.process = subprocess.Popen(arguments, preexec_fn=connect, pass_fds=(3, 4, *moved), stderr=subprocess.DEVNULL)
        for end in (to_read, from_write, *moved):
            os.close(end)
        self.out = os.fdopen(to_write, "wb", buffering=0)
        self.back = os.fdopen(from_read, "rb")
        self.number = 0
        self.buffer = b""
        self.events = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def receive(self):
        while b"\0" not in self.buffer:
            more = self.back.read1(1 << 16)
            if not more:
                raise SystemExit("Chromium ended")
            self.buffer += more
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if getattr(self, "session", None):
            message["sessionId"] = self.session
        self.out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.receive())

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def click(self, selector):
        place = self.value(
            f"(() => {{ const it = {selector}; it.scrollIntoView({{block: 'center'}}); const box = it.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def type(self, text):
        self.call("Input.insertText", text=text)


def main():
    program, page = sys.argv[1], Path(sys.argv[2]).resolve()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, profile)
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(f"{domain}.enable")
        address = page.as_uri()
        browser.call("Page.navigate", url=address)
        browser.wait_for("Page.loadEventFired")
        names = "[...document.querySelectorAll('#rows tr')].filter(row => !row.hidden && row.className !== 'details')" \
                ".map(row => row.querySelector('.open').textContent)"
        head = lambda title: f"[...document.querySelectorAll('#head button')].find(it => it.textContent === '{title}')"
        found = {"title": browser.value("document.title"), "at first": browser.value(names)}
        if len(sys.argv) > 3:
            picture = browser.call("Page.captureScreenshot", format="png")["data"]
            Path(sys.argv[3]).write_bytes(base64.b64decode(picture))
        back = "getComputedStyle(document.body).backgroundColor"
        found["light"] = browser.value(back)
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        found["dark"] = browser.value(back)
        browser.click(head("Size"))
        found["by size"] = browser.value(names)
        found["sort"] = browser.value(f"{head('Size')}.parentElement.getAttribute('aria-sort')")
        browser.click(head("Size"))
        found["by size again"] = browser.value(names)
        browser.click("document.getElementById('problems')")
        found["with findings"] = browser.value(names)
        browser.click("document.getElementById('problems')")
        browser.click("document.getElementById('search')")
        browser.type("lora")
        found["lora"] = browser.value(names)
        found["status"] = browser.value("document.getElementById('shown').textContent")
        browser.click("document.querySelector('#rows tr:not([hidden]) .open')")
        found["details"] = browser.value("document.querySelector('.details').textContent")
        found["pictures"] = browser.value("[...document.images].filter(it => it.complete && it.naturalWidth > 0).length")
        browser.value("0")
        errors, requests = [], []
        for event in browser.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown" or (method == "Runtime.consoleAPICalled" and parameters["type"] == "error"):
                errors.append(parameters)
            if method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                errors.append(parameters["entry"])
            if method == "Network.requestWillBeSent":
                requests.append(parameters["request"]["url"])
        found["errors"] = errors
        found["requests"] = [url for url in requests if url != address and not url.startswith("data:")]
        browser.process.terminate()
        browser.process.wait()
    print(json.dumps(found))


main()
