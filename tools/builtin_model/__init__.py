"""The built-in model's material, trainer and measurement; see `train` and `evaluate`."""

from pathlib import Path

SHIPPED = Path(__file__).parents[2] / "appliance" / "builtin" / "hearth.gguf"
