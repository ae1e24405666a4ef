"""Requests from inside a network namespace: `ip netns exec NAME python lan_client.py < requests`.

Reads a JSON list of requests (url, source, method, path, headers, host, body, is_held), sends all
of them at once from their source addresses, and prints the list of (status, headers, body). Of a
held one the body is not read: its connection stays open until a line comes on standard input.
"""

import asyncio
import json
import sys
from urllib.parse import urlsplit

TIMEOUT_S = 30


async def send(wanted):
    url = urlsplit(wanted["url"])
    local = (wanted["source"], 0) if wanted.get("source") else None
    reader, writer = await asyncio.open_connection(url.hostname, url.port, local_addr=local)
    body = json.dumps(wanted["body"]).encode() if "body" in wanted else b""
    host = wanted.get("host", url.netloc)
    lines = [f"{wanted.get('method', 'POST')} {wanted['path']} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in wanted.get("headers", [])]
    lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    async with asyncio.timeout(TIMEOUT_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        rest = "" if wanted.get("is_held") else (await reader.read()).decode()
    status, *fields = head.strip().split("\r\n")
    if not wanted.get("is_held"):
        writer.close()
    headers = dict(field.split(": ", 1) for field in fields)
    return (int(status.split()[1]), headers, rest), writer


async def main():
    wanted = json.loads(sys.stdin.readline())
    answers = await asyncio.gather(*(send(each) for each in wanted))
    print(json.dumps([answer for answer, _ in answers]), flush=True)
    if any(each.get("is_held") for each in wanted):
        await asyncio.to_thread(sys.stdin.readline)


asyncio.run(main())
