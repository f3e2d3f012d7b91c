"""Makes ``whole_runs`` and ``thread_ranks`` importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
