#!/usr/bin/env python3
"""Joins a document with pycrdt, follows it, and types into it: a Yjs client in Python.

    python3 -m venv venv && venv/bin/pip install pycrdt
    venv/bin/python examples/pycrdt_client.py --server http://127.0.0.1:8080 --document welcome

Prints the text whenever it has changed. Each line on standard input is written at the end of the text. At the end of
the input everything is on the server's disk, and the program ends; with `--follow` it stays and goes on printing.

Where the server asks for a token, put it into PROMPTGRIMOIRE_TOKEN.

Two rules keep a copy in step, whatever breaks in between:

- What came from the server is applied in any case: Yjs updates may be repeated and may overlap.
- What is missing on the server is one difference, against the state vector that the server told last. It is sent after
  each edit, and again after each connection, so nothing has to be remembered about what was sent.
"""

import argparse
import base64
import http.client
import json
import os
import sys
import threading
import time
import uuid
from typing import Callable, Optional
from urllib.parse import quote, urlsplit

from pycrdt import Doc, Text


class Client:
    """A copy of one document that is kept in step. Any thread may call it."""

    def __init__(self, server: str, document: str, token: Optional[str]):
        self.address = urlsplit(server)
        #: What every request says. A token belongs into a header: addresses are logged.
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.path = f"{self.address.path.rstrip('/')}/docs/{quote(document, safe='')}"
        self.client_id = f"pycrdt-{uuid.uuid4().hex[:12]}"
        self.doc = Doc(allow_multithreading=True)
        self.text = self.doc.get("text", type=Text)
        self.lock = threading.Lock()
        #: Which life of the document this is a copy of; None: nobody has written yet.
        self.epoch: Optional[str] = None
        #: What the server is known to have: a state vector.
        self.servers = b"\x00"
        self.synced = threading.Event()

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        secure = self.address.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(self.address.netloc, timeout=timeout)

    def follow(self, show: Callable[[str], None]) -> None:
        """Reads the event stream for good. `show` is called with the text after each change by others."""
        last_event_id = ""
        while True:
            # The server sends a comment every 10 s, so a stream that is silent for 30 s is dead.
            connection = self.connect(timeout=30)
            try:
                headers = {**self.headers, **({"Last-Event-ID": last_event_id} if last_event_id else {})}
                connection.request("GET", f"{self.path}/events?client_id={self.client_id}", headers=headers)
                response = connection.getresponse()
                if response.status in (400, 401, 403, 404):
                    fail(f"the server answers {response.status}: {response.read().decode()}")
                name = ""
                for line in response:
                    field, _, value = line.decode().rstrip("\r\n").partition(": ")
                    if field == "event":
                        name = value
                    elif field == "id":
                        last_event_id = value
                    elif field == "data" and name in ("sync", "update"):
                        self.take(json.loads(value), show)
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(1)

    def take(self, event: dict, show: Callable[[str], None]) -> None:
        """Applies what the server sent, and answers a `sync` with what the server lacks."""
        is_sync = "state_vector" in event
        if is_sync and self.epoch not in (None, event["epoch"]):
            fail("the document was deleted: this copy belongs to its earlier life")
        with self.lock:
            before = str(self.text)
            self.doc.apply_update(base64.b64decode(event["update"]))
            after = str(self.text)
            if is_sync:
                self.epoch, self.servers = event["epoch"], base64.b64decode(event["state_vector"])
        if after != before or not self.synced.is_set():
            show(after)
        if is_sync:
            self.synced.set()
            self.push()

    def write(self, line: str) -> None:
        """Appends to the text, and returns when the server has it on disk."""
        with self.lock:
            self.text += line
        while True:
            try:
                return self.push()
            except (OSError, http.client.HTTPException):
                time.sleep(1)

    def push(self) -> None:
        """Sends what the server lacks. Sending it twice does no harm."""
        with self.lock:
            update, ours = self.doc.get_update(self.servers), self.doc.get_state()
        body = {"update": base64.b64encode(update).decode(), "client_id": self.client_id, "epoch": self.epoch}
        connection = self.connect(timeout=30)
        try:
            headers = {**self.headers, "Content-Type": "application/json"}
            connection.request("POST", f"{self.path}/updates", json.dumps(body), headers)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status in (423, 429, 503):  # frozen, too many requests, stopping: later
            raise http.client.HTTPException(answer)
        if response.status != 200:
            fail(f"the server answers {response.status}: {answer.decode()}")
        with self.lock:
            self.epoch, self.servers = json.loads(answer)["epoch"], ours


def show(text: str) -> None:
    """One line for each state of the text, in JSON since a text has lines of its own."""
    print(json.dumps(text, ensure_ascii=False), flush=True)


def fail(why: str) -> None:
    """Ends the program, from whichever thread."""
    print(f"pycrdt_client.py: {why}", file=sys.stderr, flush=True)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Follows a document and types into it.")
    parser.add_argument("--server", default="http://127.0.0.1:8080")
    parser.add_argument("--document", default="welcome")
    parser.add_argument(
        "--token",
        default=os.environ.get("PROMPTGRIMOIRE_TOKEN"),
        help="for a server that asks for one; better in the environment as PROMPTGRIMOIRE_TOKEN, which `ps` does not show",
    )
    parser.add_argument("--follow", action="store_true", help="stay after the end of the input")
    arguments = parser.parse_args()

    client = Client(arguments.server, arguments.document, arguments.token)
    threading.Thread(target=client.follow, args=(show,), daemon=True).start()
    client.synced.wait()
    for line in sys.stdin:
        client.write(line)
    if arguments.follow:
        threading.Event().wait()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
