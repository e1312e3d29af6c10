"""Makes generated requests meet each other: names drawn at random would all be of documents that are not there."""

import schemathesis

# The description's own examples.
KNOWN = {"doc": "welcome", "name": "first draft", "client_id": "tab-1", "file": "demo/style.css"}

UPDATE = "AQEBAAQBBHRleHQFSGVsbG8A"


@schemathesis.serializer("application/x-ndjson")
def json_lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


@schemathesis.deserializer("application/octet-stream")
def octets(context, response):
    return response.content


@schemathesis.hook
def map_body(context, body):
    """Base64 drawn at random is no update: in half of the bodies it becomes one, so that documents come to be."""
    if isinstance(body, dict) and isinstance(body.get("update"), str) and len(body["update"]) % 2 == 0:
        body["update"] = UPDATE
    return body


@schemathesis.hook
def map_query(context, query):
    """Nobody waits for what will not come."""
    if isinstance(query, dict) and "at_least" in query:
        query["wait"] = 0
    return query


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    """Two names in three become one that others use too; the rest, malformed ones among them, stay as drawn."""
    for name, known in KNOWN.items():
        drawn = (path_parameters or {}).get(name)
        if isinstance(drawn, str) and len(drawn) % 3 != 0:
            path_parameters[name] = known
    return path_parameters
