"""The program of an image, `hearth-os`, loaded from the tree as a module."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "images/shared/files/usr/lib/hearth-os"


def load():
    """A new module of it; where Python looks for others stays as it was."""
    loader = importlib.machinery.SourceFileLoader("hearth_os", str(FOLDER / "hearth-os"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("hearth_os", loader))
    path = list(sys.path)
    loader.exec_module(module)
    sys.path[:] = path
    return module
