"""Writes the dashboards as JSON: `python generate_boards.py FOLDER`; `nox -s dashboards` does it."""

from __future__ import annotations

import sys
from pathlib import Path

from board_cluster import cluster
from board_handlers import handlers
from board_queues import queues
from grafana_foundation_sdk.cog.encoder import JSONEncoder


def main(folder: Path) -> None:
    """Writes one file for each board, named by its uid."""
    folder.mkdir(parents=True, exist_ok=True)
    for builder in (cluster(), queues(), handlers()):
        board = builder.build()
        for number, panel in enumerate(board.panels or [], 1):
            # Grafana numbers panels without an id anew at each start. Then a link to a panel would lead elsewhere.
            panel.id_val = number
        text = JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(board)
        (folder / f"{board.uid}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
