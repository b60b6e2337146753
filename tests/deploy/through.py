#!/usr/bin/python3
"""Speaks to what is behind Traefik as programs do: through.py events|echo|body|terminal HOST [PATH [HEADER:VALUE]...]. Where Traefik is
and whom to trust is in ATOLL_CLUSTER_TRAEFIK and ATOLL_CLUSTER_CA."""
import hashlib
import http.client
import json
import os
import socket
import ssl
import sys

import websocket

PIECE = bytes(range(256)) * 256
MUCH = 64 << 20
trust = ssl.create_default_context(cafile=os.environ["ATOLL_CLUSTER_CA"])


def connected(host):
    plain = socket.create_connection((os.environ["ATOLL_CLUSTER_TRAEFIK"], 443), timeout=60)
    return trust.wrap_socket(plain, server_hostname=host)


def asked(host, method, path, body=None):
    connection = http.client.HTTPConnection(host)
    connection.sock = connected(host)
    connection.request(method, path, body, {"Content-Length": str(MUCH)} if body else {})
    answer = connection.getresponse()
    assert answer.status == 200, (answer.status, answer.read())
    return answer


def events(host):
    """The second event comes only because the first was heard."""
    stream = asked(host, "GET", "/events")
    assert stream.headers["Content-Type"] == "text/event-stream", stream.headers
    assert [stream.readline(), stream.readline()] == [b"data: first\n", b"\n"]
    assert asked(host, "GET", "/go").read() == b"gone"
    assert stream.readline() == b"data: second\n" and stream.read() == b"\n"


def opened(host, path, headers):
    return websocket.create_connection(f"wss://{host}{path}", socket=connected(host), header=headers)


def echo(host):
    line = opened(host, "/echo", [])
    for said in ("a word", "x" * 1000, "y" * 300_000):
        line.send(said)
        assert line.recv() == said, said[:20]
    line.send_binary(PIECE)
    assert line.recv() == PIECE
    line.close()


def body(host):
    """Much, in both directions."""
    pieces = MUCH // len(PIECE)
    digest = hashlib.sha256(PIECE * pieces).hexdigest()
    assert asked(host, "POST", "/body", (PIECE for _ in range(pieces))).read().decode() == digest
    given, answer = hashlib.sha256(), asked(host, "GET", f"/body?bytes={MUCH}")
    while piece := answer.read(1 << 20):
        given.update(piece)
    assert given.hexdigest() == digest


def terminal(host, path, *headers):
    """A person's shell: what is typed runs, and the terminal has the size that was asked for."""
    line, shown = opened(host, path, list(headers)), b""
    line.send(json.dumps({"type": "resize", "cols": 101, "rows": 41}))
    line.send("stty size; echo $((40 + 2)) $TERM\n")
    line.send_binary(b"tty; exit 7\n")
    while True:
        kind, heard = line.recv_data()
        if kind == websocket.ABNF.OPCODE_CLOSE:
            break
        shown += heard
    assert int.from_bytes(heard[:2], "big") == 1000, heard
    for part in (b"41 101", b"42 xterm", b"/dev/pts/"):
        assert part in shown, (part, shown)


{"events": events, "echo": echo, "body": body, "terminal": terminal}[sys.argv[1]](*sys.argv[2:])
