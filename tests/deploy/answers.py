"""A server inside a sandbox, made of nothing but Python: /events tells one event at once and another when /go was asked for,
/echo is a WebSocket that says again what it hears, /body takes what is sent and gives bytes of any number."""
import base64
import hashlib
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PIECE = bytes(range(256)) * 256
go = threading.Event()


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urlsplit(self.path)
        routes = {"/events": self.events, "/go": self.go, "/echo": self.echo, "/body": self.give, "/": self.hello}
        routes.get(path.path, lambda query: self.say(404, b"there is no such thing"))(parse_qs(path.query))

    def do_POST(self):
        digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read(min(left, len(PIECE)))
            digest.update(piece)
            left -= len(piece)
        self.say(200, digest.hexdigest().encode())

    def say(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def hello(self, _):
        # What a request must not bring along: the platform's own credentials.
        keys = [name for name in self.headers if name.lower() in ("x-api-key", "authorization", "x-atoll-token", "cookie")]
        self.say(200, f"hello {keys}\n".encode())

    def go(self, _):
        go.set()
        self.say(200, b"gone")

    def events(self, _):
        go.clear()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"data: first\n\n")
        go.wait(60)
        self.wfile.write(b"data: second\n\n")
        self.close_connection = True

    def give(self, query):
        left = int(query["bytes"][0])
        self.send_response(200)
        self.send_header("Content-Length", str(left))
        self.end_headers()
        while left:
            left -= self.wfile.write(PIECE[:left])

    def echo(self, _):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accepted = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accepted)):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        while self.frame():
            pass

    def frame(self):
        first, length = self.rfile.read(2)
        length &= 127
        if length > 125:
            length = struct.unpack(*(("!H", self.rfile.read(2)) if length == 126 else ("!Q", self.rfile.read(8))))[0]
        mask = self.rfile.read(4)
        heard = bytearray(self.rfile.read(length))
        for at, each in enumerate(mask):
            heard[at::4] = heard[at::4].translate(bytes(byte ^ each for byte in range(256)))
        sizes = struct.pack("!B", length) if length < 126 else struct.pack("!BH", 126, length) if length < 1 << 16 else struct.pack("!BQ", 127, length)
        self.wfile.write(bytes([first]) + sizes + heard)
        return first & 15 != 8

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
