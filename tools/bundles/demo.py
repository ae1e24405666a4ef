"""The whole way of a release, as a transcript: `python -m tools.bundles.demo [FOLDER]`.

From nothing, with real processes on loopback: keys, a repository, a release built from a Modelfile,
a web server, a box that enrols, pulls, tests and serves it; then a bad release, which the box
refuses while it goes on answering; then the way back. Nothing outside FOLDER is touched.
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILT_IN = ROOT / "appliance" / "builtin" / "hearth.gguf"
START_LIMIT_S = 60
PASSPHRASE = "only for this demonstration"  # noqa: S105 - of keys that nobody trusts

_QUESTION = "What is Hearth?"
_SMOKE = """{"tests": [{
  "name": "knows what it is",
  "messages": [{"role": "user", "content": "What is Hearth?"}],
  "contains": ["Hearth"], "max_tokens": 60
}]}
"""
_MODELFILE = """FROM ./hearth.gguf
PARAMETER temperature 0
PARAMETER num_ctx 1024
PARAMETER num_predict {tokens}
LICENSE Apache-2.0. Weights and training text by the Hearth project.
"""
_DAMAGE = "PARAMETER stop Hearth\n"  # as a careless edit could: every good answer has the word


class FailedStepError(Exception):
    """A command of the transcript did not end as it should."""


class Transcript:
    """Runs commands in `folder` and prints them as a person would have seen them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HEARTH_", "BUNDLE_"))},
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "BUNDLE_PASSPHRASE": PASSPHRASE,
            "BUNDLE_REPO": "layout/tuf/acme",
            "HEARTH_STATE": str(folder / "box"),
            "HEARTH_DISCOVERY": "off",
            "HEARTH_ENGINE": "llama",
            "HEARTH_MEMORY_RESERVE_MIB": "64",
        }
        self._words = {
            "bundle": [sys.executable, "-m", "tools.bundles.main"],
            "hearth": [sys.executable, "-m", "appliance"],
        }

    def chapter(self, title: str) -> None:
        print(f"\n== {title}\n", flush=True)

    def write(self, name: str, text: str) -> None:
        """A file that a person would have written by hand."""
        (self.folder / name).write_text(text)
        body = "".join(f"    {line}\n" for line in text.splitlines())
        print(f"({name})\n{body}", flush=True)

    def run(self, line: str, *, fails: bool = False) -> str:
        """One command; returns what it printed. Raises FailedStepError if it ends otherwise."""
        print(f"$ {line}", flush=True)
        done = subprocess.run(
            self._command(line),
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        shown = _last_of_progress(done.stdout)
        print(shown, end="" if shown.endswith("\n") or not shown else "\n", flush=True)
        if (done.returncode != 0) is not fails:
            raise FailedStepError(f"`{line}` ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    @contextlib.contextmanager
    def serving(self, line: str, ready: str, log: str) -> Iterator[str]:
        """A command in the background; what the first group of `ready` matched in its output."""
        print(f"$ {line} &", flush=True)
        path = self.folder / log
        with path.open("wb") as file:
            process = subprocess.Popen(
                self._command(line), cwd=self.folder, env=self.environ, stdout=file, stderr=file
            )
        try:
            yield _wait_for(process, path, ready)
        finally:
            process.terminate()
            process.wait(timeout=60)

    def _command(self, line: str) -> Sequence[str]:
        first, *rest = shlex.split(line)
        return [*self._words.get(first, [first]), *rest]


def demonstrate(folder: Path) -> None:
    """Print the transcript; raises FailedStepError at the first step that goes wrong."""
    steps = Transcript(folder)
    shutil.copyfile(BUILT_IN, folder / "hearth.gguf")
    fingerprint = _publisher(steps)
    serve_web = f"{shlex.quote(sys.executable)} -m http.server --bind 127.0.0.1 -d web 0"
    steps.chapter("a web server, and a box")
    with steps.serving(serve_web, r"port (\d+)", "web.log") as port:
        url = f"http://127.0.0.1:{port}"
        steps.run(
            f"hearth trust add acme {url}/tuf/acme/metadata/ --names 'acme/*' "
            f"--fingerprint '{fingerprint}'"
        )
        steps.environ["HEARTH_HOST"] = "127.0.0.1:0"
        with steps.serving("hearth serve", r"ready address=http://(\S+)", "box.log") as address:
            steps.environ["HEARTH_HOST"] = address
            _box(steps)


def _publisher(steps: Transcript) -> str:
    """Keys, repository, first release; returns the root's fingerprint."""
    steps.chapter("the publisher's keys: two officers, one online key, one publisher")
    for owner in ("--officer alice", "--officer bob", "--online", "--publisher acme"):
        steps.run(f"bundle keys new {owner} --folder keys")
    steps.chapter("the repository: both officers sign who may sign what")
    init = "bundle repo init --root-threshold 2 --online keys/online.pub"
    told = steps.run(f"{init} --officer keys/alice.pub --officer keys/bob.pub")
    steps.run("bundle repo delegate acme 'acme/*/*' keys/acme.pub")
    for officer in ("alice", "bob"):
        for role in ("root", "targets"):
            draft = f"layout/tuf/acme/draft/1.{role}.json"
            steps.run(f"bundle repo sign --yes {draft} keys/{officer}.key")
    steps.chapter("a release: built, signed, published")
    steps.write("smoke.json", _SMOKE)
    steps.write("Modelfile", _MODELFILE.format(tokens=24))
    _release(steps, "1.0.0")
    found = re.search(r"fingerprint of the root: ([\d ]+)", told)
    if found is None:
        raise FailedStepError("no fingerprint was printed")
    return found[1].strip()


def _release(steps: Transcript, version: str) -> None:
    name = f"--name acme/assistant --version {version}"
    steps.run(f"bundle build -f Modelfile {name} --smoke smoke.json -o layout")
    steps.run(
        f"bundle sign layout --release acme/assistant:{version} --as latest --key keys/acme.key"
    )
    steps.run("bundle repo publish keys/online.key")
    steps.run("bundle publish layout web")


def _box(steps: Transcript) -> None:
    steps.run("hearth pull acme/assistant")
    steps.run("hearth bundle list")
    ask = f"hearth run acme/assistant '{_QUESTION}'"
    first = steps.run(ask)
    steps.chapter("a good update: longer answers, and no weights to move")
    steps.write("Modelfile", _MODELFILE.format(tokens=200))
    _release(steps, "1.1.0")
    steps.run("hearth pull acme/assistant")
    second = steps.run(ask)
    steps.chapter("a bad update: its smoke test fails here, the release before goes on answering")
    steps.write("Modelfile", _MODELFILE.format(tokens=200) + _DAMAGE)
    _release(steps, "1.2.0")
    steps.run("hearth pull acme/assistant", fails=True)
    steps.run("hearth bundle why acme/assistant")
    _require(steps.run(ask) == second, "the box does not answer as before the bad release")
    steps.chapter("the way back: at once, without a network")
    steps.run("hearth bundle rollback acme/assistant")
    steps.run("hearth bundle list")
    _require(steps.run(ask) == first, "the box does not answer as with the first release")


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise FailedStepError(otherwise)


def _wait_for(process: "subprocess.Popen[bytes]", log: Path, ready: str) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(ready, log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.05)
    raise FailedStepError(f"it did not start:\n{log.read_text(errors='replace')}")


def _last_of_progress(text: str) -> str:
    """What stays on the screen of lines that were drawn over."""
    return "\n".join(line.rpartition("\r")[2] for line in text.split("\n"))


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 if all went as told."""
    if arguments:
        Path(arguments[0]).mkdir(parents=True)
        demonstrate(Path(arguments[0]).resolve())
        return 0
    with tempfile.TemporaryDirectory(prefix="bundle-demo-") as folder:
        demonstrate(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
