"""The `hearth` command as a process: piped, or on a pseudo-terminal."""

import os
import pty
import re
import select
import subprocess
import sys
import time

HEARTH = [sys.executable, "-m", "appliance"]
TIMEOUT_S = 60

_ESCAPES = re.compile(r"\x1b\[[?0-9;]*[a-zA-Z]")
# Makes the pseudo-terminal the controlling one, so that Ctrl+C becomes a signal.
_ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "appliance", *sys.argv[1:]])
"""


def environment(url, **more):
    """This process's environment, pointed at one service and at no other settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "OLLAMA_"))}
    return kept | {"HEARTH_HOST": url} | more


class Command:
    """Runs the command against one address: called, it expects success, `fails` a code."""

    def __init__(self, url):
        self.url = url

    def run(self, *arguments, stdin="", cwd=None, **env):
        return subprocess.run(
            [*HEARTH, *map(str, arguments)],
            input=stdin,
            cwd=cwd,
            env=environment(self.url, **env),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def __call__(self, *arguments, **how):
        done = self.run(*arguments, **how)
        assert done.returncode == 0, done.stderr
        return done

    def fails(self, code, *arguments, **how):
        """What it says on stderr when it ends with `code` and prints no result."""
        done = self.run(*arguments, **how)
        assert done.returncode == code, (done.returncode, done.stderr)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    def start(self, *arguments):
        """The running process, with pipes for its output."""
        return subprocess.Popen(
            [*HEARTH, *arguments],
            env=environment(self.url),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


class Terminal:
    """The command on a pseudo-terminal; waits for what it must print. A context manager."""

    def __init__(self, url, *arguments, **env):
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, *arguments],
            env=environment(url, TERM="xterm", **env),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._screen = ""
        self._seen = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait(TIMEOUT_S)
        os.close(self._master)

    def expect(self, text):
        """Read until `text` appears behind what was expected before; what stands in between."""
        deadline = time.monotonic() + TIMEOUT_S
        while (found := self._screen.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self._screen[self._seen :]!r}"
            assert self._read(), f"it ended without {text!r}: {self._screen!r}"
        between = self._screen[self._seen : found]
        self._seen = found + len(text)
        return between

    def press(self, keys):
        """Send keys as they are."""
        os.write(self._master, keys)

    def interrupt_until(self, text):
        """Press Ctrl+C, again if need be, until `text` appears. CPython's readline only looks at
        signals that come while it waits for a key, so one that comes just before is late.
        """
        while self._screen.find(text, self._seen) < 0:
            self.press(b"\x03")
            self._read(1)
        self.expect(text)

    def enter(self, line):
        """Type a line and wait until the terminal has echoed it."""
        self.press(f"{line}\n".encode())
        self.expect(line)
        self.expect("\n")

    def ask(self, line):
        """Type a line at the prompt; what is printed until the next prompt."""
        self.enter(line)
        return self.expect(">>> ").strip("\n")

    def exit_code(self):
        """Wait until the process has ended."""
        while self._read():
            pass
        return self._process.wait(TIMEOUT_S)

    def _read(self, wait_s=TIMEOUT_S):
        if not select.select([self._master], [], [], wait_s)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux reports the end of a pseudo-terminal as EIO
            return False
        self._screen += _ESCAPES.sub("", data.decode(errors="replace")).replace("\r", "")
        return bool(data)
