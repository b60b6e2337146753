"""What listens in a sandbox behind the gateway: says what it was sent, streams, and speaks WebSocket. Only Python's own
library, because the base image has no other."""

import base64
import hashlib
import json
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE = bytes(range(256)) * 256
go_on = threading.Semaphore(0)
taken = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, text, kind="text/plain"):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def pieces(self, size):
        while size > 0:
            yield PIECE[: min(size, len(PIECE))]
            size -= len(PIECE)

    def do_GET(self):
        global taken
        path, _, number = self.path.partition("?")
        if path == "/events":
            self.stream("text/event-stream")
            for n in range(3):
                go_on.acquire()
                self.wfile.write(f"data: {n}\n\n".encode())
        elif path == "/bytes":
            self.stream()
            for piece in self.pieces(int(number)):
                self.wfile.write(piece)
        elif path == "/endless":
            self.stream()
            while True:
                taken += self.wfile.write(PIECE)
        elif path == "/taken":
            self.say(str(taken))
        elif path == "/ws":
            self.web_socket()
        else:
            headers = [list(pair) for pair in self.headers.items()]
            self.say(json.dumps({"machine": socket.gethostname(), "path": self.path, "headers": headers}))

    def body(self):
        """The body's pieces, in either of HTTP/1.1's forms."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left and (piece := self.rfile.read(min(left, 65536))):
            left -= len(piece)
            yield piece

    def do_POST(self):
        digest = hashlib.sha256()
        for piece in self.body():
            digest.update(piece)
        if self.path == "/go":
            go_on.release()
        self.say(digest.hexdigest())

    def web_socket(self):
        """Gives every message back (RFC 6455)."""
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            size = head[1] & 127
            if size == 126:
                size = struct.unpack("!H", self.rfile.read(2))[0]
            elif size == 127:
                size = struct.unpack("!Q", self.rfile.read(8))[0]
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.rfile.read(size)))
            if head[0] & 15 == 8:
                return
            length = bytes([size]) if size < 126 else b"\x7e" + struct.pack("!H", size)
            self.wfile.write(bytes([head[0]]) + length + data)


ThreadingHTTPServer(("127.0.0.1", 9000), Handler).serve_forever()
