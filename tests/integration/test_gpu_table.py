"""The table of a GPU goes on when one of its parts fails, is too slow or says nothing."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
GOOD = """
import json, os, pathlib
figure = {"what": "speed", "value": 2.5, "bar": 3.0, "is_limit": False, "unit": "x"}
line = {"device": "none", "versions": {"torch": "0"}, "figures": [figure]}
folder = pathlib.Path(os.environ["HEARTH_BENCH_RESULTS"])
(folder / "part.jsonl").write_text(json.dumps(line) + "\\n")
"""


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("gpu_table")
    for name in ("gpu_table", "harness"):
        sys.modules.pop(name, None)


def test_each_part_is_a_row_whatever_becomes_of_it(table, tmp_path, monkeypatch, capsys):
    scripts = {
        "good": GOOD, "broken": "raise SystemExit('no such thing')",
        "slow": "import time; time.sleep(60)", "silent": "print('skipped')",
    }  # fmt: skip
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    parts = tuple(table.Part(name, name, 1 if name == "slow" else 30, (), ()) for name in scripts)
    monkeypatch.setattr(table, "FOLDER", tmp_path)
    monkeypatch.setattr(table, "PARTS", (*parts, table.Part("device", "none", 1, (), None)))
    monkeypatch.setenv("HEARTH_BENCH_RESULTS", str(tmp_path / "results"))
    table.main(["--cpu"])
    (line,) = (tmp_path / "results/gpu_table.jsonl").read_text().splitlines()
    rows = json.loads(line)["rows"]
    assert rows == [
        ["good", "speed", "2.5 x", "3", "NO"],
        ["broken", "failed: no such thing", "not measured", "", ""],
        ["slow", "not done within 1 s", "not measured", "", ""],
        ["silent", "not measured: see above", "not measured", "", ""],
        ["device", "needs a GPU", "not measured", "", ""],
    ]
    assert "2.5 x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "bar", "is_limit", "held"),
    [(1, None, False, ""), (2, 1, False, "yes"), (1, 2, False, "NO"), (1, 1, False, "yes"),
     (2, 1, True, "NO"), (1, 2, True, "yes"), (0, 0, True, "yes")],
)  # fmt: skip
def test_whether_a_bar_is_held(table, value, bar, is_limit, held):
    assert table.harness.Figure("x", value, bar, is_limit).held == held
