"""Runs inside a test machine: does what the host asks over a virtio port, one JSON line at a time.

{"argv": [...], "input": "..."} is answered by {"status": 0, "output": "...", "errors": "..."}.
Standard library alone, since it is copied into a bare Debian root.
"""

import json
import os
import subprocess
import time

PORT = "/dev/virtio-ports/hearth-agent"
LIMIT_S = 600


def main():
    deadline = time.monotonic() + 60
    while not os.path.exists(PORT) and time.monotonic() < deadline:  # noqa: PTH110 - starts faster
        time.sleep(0.05)
    with open(PORT, "r+b", buffering=0) as port:  # noqa: PTH123
        send(port, {"hello": True})
        waiting = b""
        while True:
            data = port.read(65536)
            if not data:  # nobody listens on the host's side
                time.sleep(0.1)
                continue
            waiting += data
            while b"\n" in waiting:
                line, _, waiting = waiting.partition(b"\n")
                send(port, answer(json.loads(line)))


def send(port, document):
    rest = memoryview(json.dumps(document).encode() + b"\n")
    while rest:  # the port may take less than all at once
        rest = rest[port.write(rest) :]


def answer(request):
    try:
        done = subprocess.run(
            request["argv"], input=request["input"], capture_output=True, text=True,
            timeout=LIMIT_S, errors="replace",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"status": 127, "output": "", "errors": str(error)}
    return {"status": done.returncode, "output": done.stdout, "errors": done.stderr}


main()
