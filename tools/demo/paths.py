"""Where the demo's parts live in the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "models" / "demo"
ADAPTERS = ROOT / "adapters"
HELD_OUT = ROOT / "tests" / "data" / "demo"
