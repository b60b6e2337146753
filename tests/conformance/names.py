"""A name server for some domains: every name in them has the one address, and there are no others.

names.py LISTEN ADDRESS DOMAIN...: listens at port 53 of LISTEN. It reads one question of a query, as all resolvers send it.
"""
import socket
import struct
import sys

A, AAAA, IN = 1, 28, 1


def question(query):
    """The name that is asked for, its type, and where the question ends."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]])
        at += 1 + query[at]
    kind, _ = struct.unpack(">HH", query[at + 1:at + 5])
    return b".".join(labels).decode("ascii", "replace").lower(), kind, at + 5


def answer(query, domains, address):
    name, kind, end = question(query)
    known = any(name == domain or name.endswith("." + domain) for domain in domains)
    records = [struct.pack(">HHHIH", 0xC00C, A, IN, 1, 4) + socket.inet_aton(address)] if known and kind == A else []
    # A response that is authoritative; other names do not exist (3).
    flags = 0x8580 if known else 0x8583
    return query[:2] + struct.pack(">HHHHH", flags, 1, len(records), 0, 0) + query[12:end] + b"".join(records)


def main(listen, address, *domains):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((listen, 53))
    while True:
        query, who = server.recvfrom(512)
        try:
            server.sendto(answer(query, [domain.lower() for domain in domains], address), who)
        except (IndexError, struct.error):
            pass  # no query


if __name__ == "__main__":
    main(*sys.argv[1:])
