"""Leaders that want to know who calls."""

import sys
from pathlib import Path

tests = Path(__file__).parents[1]
for folder in (Path(__file__).parent, tests / "rpc", tests / "app", tests.parents[1] / "gowork-base/tests"):
    sys.path.insert(0, str(folder))
