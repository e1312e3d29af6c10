#!/usr/bin/env python3
"""An agent that writes into a shared document while people type in it. Python 3.9, standard library only.

    python3 examples/agent.py --server http://127.0.0.1:8080 --document welcome

Where the server asks for a token, put it into PROMPTGRIMOIRE_TOKEN.

Then write a line such as `@agent count to 50` at http://127.0.0.1:8080/conversation/welcome, press Enter, and go on
typing wherever you like. The answer streams in below that line, word by word:

    @agent count to 50
    ↳ Agent: 1 2 3 4▌

Everything that the agent knows is in the document: a question is answered when an answer line stands below it, and an
answer is under way while it ends in the block. So the agent can be killed at any moment and started again, and goes on
with the next word. Whoever deletes the block stops the answer.

Three habits keep the text whole. They are what to take along into an agent of your own:

1. Places are found anew before each word, and the edit names the text in which they were found: the ETag of
   `GET …/text` becomes the `base` of `PATCH …/text`. What others typed in between is merged; it never shifts a word.
2. Each word has an Idempotency-Key that follows from what was said before it, not from who says it when. A request
   whose answer was lost is sent again as it was, and neither a second life of the agent nor a second agent of the same
   name, started by mistake, can say a word twice.
3. The event stream only says that something changed. What is to be done is read from the document, so a missed,
   repeated or late event does no harm.
"""

import argparse
import hashlib
import http.client
import json
import os
import random
import signal
import sys
import threading
import time
from typing import Iterator, List, NamedTuple, Optional, Tuple
from urllib.parse import quote, urlsplit

#: Ends an answer that is under way.
BLOCK = "▌"
#: The server forgets a presence without a stream after 35 s.
PRESENCE_SECONDS = 10
#: The server sends a comment every 10 s; a stream that is silent for so long is dead.
SILENCE_SECONDS = 30
BACKOFF_SECONDS_MAX = 10
#: The server remembers keys for ten minutes. Whoever repeats an edit for longer had better look what became of it.
REPEAT_SECONDS_MAX = 300


def think(question: str, text: str, so_far: str) -> Iterator[str]:
    """The words of the answer to `question`, beginning after `so_far`.

    THIS IS THE PLACE FOR A MODEL. Give it the question, the whole text, and the beginning of its answer, which is not
    empty after a restart; yield what it streams, in pieces of any length without line breaks. It may take its time:
    the document waits for nobody.
    """
    words = question.split()
    if words[:2] == ["count", "to"] and words[2:] and words[2].isdecimal():
        answer = " ".join(str(number) for number in range(1, min(int(words[2]), 10_000) + 1))
    elif words == ["words"]:
        answer = f"There are {len(text.split())} words in this document, mine included."
    else:
        answer = f"You said “{question}” (words: {len(words)}). Ask me to count to 20, or for words."
    # What somebody changed in the answer meanwhile is left as it is: only the number of words tells where to go on.
    rest = answer[len(so_far):] if answer.startswith(so_far) else " ".join([""] + answer.split()[len(so_far.split()):])
    for number, word in enumerate(rest.split(" ")):
        if word or number:
            yield word if number == 0 else f" {word}"


class Turn(NamedTuple):
    """A question, and what there is of its answer. Positions count characters, as Python does: `unit=char`."""

    question: str
    #: Where the question's line ends.
    question_end: int
    #: The answer so far; None: there is none yet.
    so_far: Optional[str] = None
    #: Where the block is; None: the answer is not under way.
    block_at: Optional[int] = None

    def is_as_far_as(self, other: "Turn") -> bool:
        """Whether both say the same, wherever they stand now."""
        states = [(turn.question, turn.so_far, turn.block_at is None) for turn in (self, other)]
        return states[0] == states[1]


def turns(text: str, name: str) -> List[Turn]:
    """All questions of a text. An answer belongs to the nearest question above it that has no other."""
    call, mark = f"@{handle(name)} ", f"↳ {name}: "
    found: List[Turn] = []
    unanswered: List[int] = []
    start = 0
    for line in text.split("\n"):
        end = start + len(line)
        # A line is a question when Enter was pressed after it: the last one may still be typed.
        if line.startswith(call) and line[len(call):].strip() and end < len(text):
            unanswered.append(len(found))
            found.append(Turn(line[len(call):].strip(), end))
        elif line.startswith(mark) and unanswered:
            index = unanswered.pop()
            block_at = line.rfind(BLOCK)
            so_far = line[len(mark):] if block_at < 0 else line[len(mark):block_at]
            found[index] = found[index]._replace(so_far=so_far, block_at=None if block_at < 0 else start + block_at)
        start = end + 1
    return found


def handle(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isascii() and letter.isalnum()) or "agent"


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: bytes):
        super().__init__(f"the server answers {status}: {body.decode(errors='replace')}")
        try:
            self.status, self.code = status, str(json.loads(body)["code"])
        except (ValueError, KeyError, TypeError):  # not our server's words: a proxy's, perhaps
            self.status, self.code = status, ""


class Stale(Exception):
    """A request that has been repeated for so long that the server may have forgotten its key."""


class Server:
    """Requests on one connection, each sent again until there is an answer: all that are made here may be repeated."""

    def __init__(self, address: str, token: Optional[str], patience: float = float("inf")):
        self.address = urlsplit(address)
        self.token = token
        #: What every request says. A token belongs into a header: addresses are logged.
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.patience = patience
        self.connection: Optional[http.client.HTTPConnection] = None

    def connect(self, timeout: float) -> http.client.HTTPConnection:
        secure = self.address.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(self.address.netloc, timeout=timeout)

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Tuple[bytes, str]:
        """The answer's body and its ETag."""
        data = None if method == "GET" else json.dumps(body).encode()
        headers = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        if data is not None:
            headers["Content-Type"] = "application/json"
        started = time.monotonic()
        give_up = started + self.patience
        attempt = 0
        while True:
            try:
                self.connection = self.connection or self.connect(timeout=30)
                self.connection.request(method, self.address.path.rstrip("/") + path, data, headers)
                response = self.connection.getresponse()
                answer = response.read()
                if response.status < 300:
                    return answer, response.getheader("ETag", "")
                # Frozen, too many requests, or a server that cannot just now: later.
                if response.status not in (423, 429, 503) or time.monotonic() > give_up:
                    raise Refused(response.status, answer)
            except (OSError, http.client.HTTPException):
                if self.connection:
                    self.connection.close()
                self.connection = None
                if time.monotonic() > give_up:
                    raise
            if "Idempotency-Key" in headers and time.monotonic() > started + REPEAT_SECONDS_MAX:
                raise Stale
            # At once the first time: the server closes a connection that was not used for a while.
            wait_after(attempt)
            attempt += 1


def wait_after(failures: int) -> None:
    """Longer each time, and never in step with others who lost the same server."""
    time.sleep(min(BACKOFF_SECONDS_MAX, 0.1 * 2**failures) * random.random() if failures else 0)


class Agent:
    def __init__(self, arguments: argparse.Namespace):
        self.name, self.colour, self.rate = arguments.name, arguments.colour, arguments.rate
        self.client_id = arguments.client_id or handle(self.name)
        self.path = f"/docs/{quote(arguments.document, safe='')}"
        self.server = Server(arguments.server, arguments.token, patience=20 if arguments.once else float("inf"))
        self.since = int(time.time() * 1000)
        #: When the list of people was told last.
        self.shown_at = float("-inf")
        #: Something happened in the document.
        self.changed = threading.Event()
        #: What ended the listener for good.
        self.failure: Optional[Exception] = None

    # Who is here

    def show(self) -> None:
        """Shows the agent among the people, and again before the server forgets it."""
        if time.monotonic() - self.shown_at < PRESENCE_SECONDS:
            return
        self.shown_at = time.monotonic()
        user = {"name": self.name, "color": self.colour, "since": self.since, "client": self.client_id}
        self.server.request("PUT", f"{self.path}/awareness/{self.client_id}", {"user": user})

    def leave(self) -> None:
        """Takes the agent off the list. If that fails, the server does it a little later."""
        try:
            server = Server(self.server.address.geturl(), self.server.token, patience=1)
            server.request("PUT", f"{self.path}/awareness/{self.client_id}", None)
        except (OSError, http.client.HTTPException, Refused):
            pass

    # What is there, and what is to be done about it

    def read(self) -> Tuple[str, str]:
        """The text, and the ETag that names it."""
        try:
            text, tag = self.server.request("GET", f"{self.path}/text")
            return text.decode(), tag
        except Refused as refused:
            if refused.status == 404:  # nobody has written yet
                return "", ""
            raise

    def answer_all(self) -> None:
        self.changed.clear()
        while self.answer_one():
            pass

    def answer_one(self) -> bool:
        """Begins or finishes one answer, or a part of it. Says whether there was something to do."""
        text, _ = self.read()
        waiting = [turn for turn in turns(text, self.name) if turn.so_far is None or turn.block_at is not None]
        if not waiting:
            return False
        # What has begun is finished first.
        turn = max(waiting, key=lambda turn: turn.block_at is not None)
        if turn.so_far is None:
            self.say(turn, {"insert": f"\n↳ {self.name}: {BLOCK}"})
            return True
        next_at = time.monotonic()
        for word in think(turn.question, text, turn.so_far):
            next_at = max(next_at + 1 / self.rate, time.monotonic())
            time.sleep(max(0, next_at - time.monotonic()))
            word = word.replace("\n", " ").replace(BLOCK, "")
            if not self.say(turn, {"insert": word}):
                return True
            turn = turn._replace(so_far=turn.so_far + word)
        self.say(turn, {"delete": 1})
        return True

    def say(self, turn: Turn, change: dict) -> bool:
        """Makes a change where the block of an answer is now, or below its question if it has not begun.

        False: there is no such answer any more. It is longer than we thought, or somebody changed or stopped it.
        """
        self.show()
        asking = 0
        while True:
            text, tag = self.read()
            same = [now for now in turns(text, self.name) if now.is_as_far_as(turn)]
            if not same:
                return False
            at = same[0].question_end if same[0].block_at is None else same[0].block_at
            body = {"client_id": self.client_id, "unit": "char", "base": tag, "ops": [{**change, "at": at}]}
            # Who finds the same question and the same beginning of an answer has the same key: a second life of this
            # agent, or a second agent.
            step = json.dumps([self.name, turn.question, turn.so_far, "delete" in change, asking])
            try:
                self.server.request(
                    "PATCH", f"{self.path}/text", body, Idempotency_Key=hashlib.sha256(step.encode()).hexdigest()
                )
                return True
            except Stale:
                pass
            except Refused as refused:
                if refused.code == "idempotency_key_reused":
                    # The step was made already. If the text does not show it, it belongs to an earlier asking of the
                    # same question, which somebody has deleted since.
                    asking += 1
                # 409: the document was deleted and begun anew. 410: history no longer reaches the text that we read.
                elif refused.status not in (409, 410):
                    raise

    # What happens

    def listen(self) -> None:
        """Follows the event stream for good, over every interruption."""
        server, last_event_id, failures, retry = Server(self.server.address.geturl(), self.server.token), "", 0, 1.0
        path = f"{server.address.path.rstrip('/')}{self.path}/events?client_id={self.client_id}&label={quote(self.name)}"
        while True:
            connection = server.connect(timeout=SILENCE_SECONDS)
            try:
                headers = {**server.headers, "Accept": "text/event-stream"}
                if last_event_id:
                    headers["Last-Event-ID"] = last_event_id
                connection.request("GET", path, headers=headers)
                response = connection.getresponse()
                if response.status in (400, 401, 403, 404):
                    raise Refused(response.status, response.read())
                failures = 0 if response.status == 200 else failures + 1
                name = ""
                for line in iter(response.readline, b"") if response.status == 200 else []:
                    field, _, value = line.decode().rstrip("\r\n").partition(":")
                    if field == "event":
                        name = value.strip()
                    elif field == "id":
                        last_event_id = value.strip()
                    elif field == "retry":
                        retry = int(value) / 1000
                    elif field == "data" and name in ("sync", "update"):
                        # A server that was restarted knows nobody any more.
                        self.shown_at = float("-inf") if name == "sync" else self.shown_at
                        self.changed.set()
            except Refused as refused:
                self.failure = refused
                self.changed.set()
                return
            except (OSError, http.client.HTTPException, ValueError):  # the last: this is no event stream
                failures += 1
            finally:
                connection.close()
            if failures:
                wait_after(failures)
            else:
                time.sleep(retry)  # each stream is told another, so that not everybody comes back at once

    def run(self) -> None:
        threading.Thread(target=self.listen, daemon=True).start()
        while self.failure is None:
            self.show()
            if self.changed.wait(PRESENCE_SECONDS):  # the stream's first event says so too
                self.answer_all()
        raise self.failure


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers lines that begin with @NAME in a shared document.")
    parser.add_argument("--server", default="http://127.0.0.1:8080")
    parser.add_argument("--document", default="welcome")
    parser.add_argument(
        "--token",
        default=os.environ.get("PROMPTGRIMOIRE_TOKEN"),
        help="for a server that asks for one; better in the environment as PROMPTGRIMOIRE_TOKEN, which `ps` does not show",
    )
    parser.add_argument("--name", default="Agent", help="what people see; lines that begin with @name are answered")
    parser.add_argument("--colour", default="#7b3f98", help="of the name in the list of people, as #rrggbb")
    parser.add_argument("--client-id", help="the name in small letters when left out")
    parser.add_argument("--rate", type=float, default=30, help="words a second")
    parser.add_argument("--once", action="store_true", help="answers what waits for an answer, and ends")
    arguments = parser.parse_args()
    if arguments.rate <= 0:
        parser.error("--rate must be over 0")

    agent = Agent(arguments)
    # Ctrl+C and `kill` end in the `finally`; a `kill -9` ends in nothing, and the server notices that the stream is gone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if arguments.once:
            agent.show()
            agent.answer_all()
        else:
            agent.run()
    except KeyboardInterrupt:
        pass
    except (OSError, http.client.HTTPException, Refused) as error:
        sys.exit(f"{parser.prog}: {error}")
    finally:
        agent.leave()


if __name__ == "__main__":
    main()
