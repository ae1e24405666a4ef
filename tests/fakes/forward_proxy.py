"""A small forward proxy: plain requests with a whole URL, and CONNECT, which it only notes.

Whatever host is asked for, the bytes come from one upstream, so that names need no addresses.
"""

import asyncio
import base64
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class ForwardProxy:
    """A running proxy."""

    address: str = ""
    targets: list = field(default_factory=list)  # of each request: a URL, or CONNECT host:port
    user: str = ""  # user:password that it demands


@asynccontextmanager
async def forward_proxy(upstream):
    """A proxy on loopback before host:port `upstream`."""
    proxy = ForwardProxy()
    open_writers = set()

    async def serve(reader, writer):
        open_writers.add(writer)
        try:
            await _serve(proxy, upstream, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            open_writers.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for writer in list(open_writers):
            writer.transport.abort()
        await server.wait_closed()


async def _serve(proxy, upstream, reader, writer):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    request, *headers = head.split("\r\n")
    method, target, _ = request.split(" ")
    proxy.targets.append(target if method != "CONNECT" else f"CONNECT {target}")
    wanted = f"Basic {base64.b64encode(proxy.user.encode()).decode()}"
    if proxy.user and f"Proxy-Authorization: {wanted}" not in headers:
        writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
        return
    if method == "CONNECT":
        writer.write(b"HTTP/1.1 502 No tunnel today\r\nContent-Length: 0\r\n\r\n")
        return
    path = "/" + target.split("//", 1)[1].partition("/")[2]
    host, _, port = upstream.rpartition(":")
    upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
    try:
        kept = [h for h in headers if h and not h.lower().startswith(("proxy-", "connection"))]
        lines = [f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]
        upstream_writer.write("\r\n".join(lines).encode())
        while data := await upstream_reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    finally:
        upstream_writer.close()
