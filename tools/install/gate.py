"""Does the release that was just started answer? `gate.py VERSION SECONDS`, run by the installer.

Waits for /readyz, sees that it is this very version, and lets the built-in model say one token.
Prints one line: how it answered, or why not (exit status 1). Needs the standard library alone.
"""

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

CRASHES = 3  # of a unit that was just started, after which waiting is useless
PAUSE_S = 0.2
PROBE_LIMIT_S = 3
ANSWER_LIMIT_S = 60


def main() -> int:
    """Ask until the time is over."""
    version, limit_s = sys.argv[1], float(sys.argv[2])
    started = time.monotonic()
    address = f"http://127.0.0.1:{_port()}"
    reason = "it never answered"
    while time.monotonic() - started < limit_s:
        if (crashes := int(_show("hearth.service", "NRestarts") or 0)) >= CRASHES:
            print(f"it ended {crashes} times: {_last_line()}")
            return 1
        try:
            _ask(f"{address}/readyz")
            found = _ask(f"{address}/api/version").get("hearth")
            if found != version:
                print(f"version {found} answers instead")
                return 1
            print(f"{_say_one_token(address)}, {time.monotonic() - started:.1f} s after its start")
        except urllib.error.HTTPError as error:
            reason = f"it answers {error.code}: {error.read(500).decode(errors='replace').strip()}"
            if not error.url.endswith("/readyz"):
                print(reason)
                return 1
        except (OSError, ValueError) as error:
            reason = f"it does not answer: {error}"
        else:
            return 0
        time.sleep(PAUSE_S)
    print(reason.replace("\n", " "))
    return 1


def _say_one_token(address: str) -> str:
    body = {"model": "hearth", "prompt": "Hello", "stream": False, "options": {"num_predict": 1}}
    try:
        answer = _ask(f"{address}/api/generate", body)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return "ready (the built-in model was removed)"
    return f"the built-in model said {answer['response']!r}"


def _ask(url: str, body: object = None) -> dict[str, object]:
    # The socket unit lets a request wait while the service crashes, so a probe must not wait long
    limit_s = PROBE_LIMIT_S if body is None else ANSWER_LIMIT_S
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=limit_s) as response:
        text = response.read(2**20)
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _port() -> int:
    found = re.search(r":(\d+) \(Stream\)", _show("hearth.socket", "Listen"))
    return int(found[1]) if found else 11434


def _show(unit: str, name: str) -> str:
    command = ["systemctl", "show", "--value", "-p", name, unit]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _last_line() -> str:
    command = ["journalctl", "-u", "hearth.service", "-o", "cat", "-n", "20", "--no-pager"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    lines = [line for line in said.splitlines() if not line.startswith("hearth.service")]
    lines = [line for line in lines if not re.match(r"(Started|Starting|Stopped|Failed)\b", line)]
    starts = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    last = lines[starts[-1] :] if starts else lines[-1:]  # an error of ours has its cure below it
    return "; ".join(line.strip() for line in last) or "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
