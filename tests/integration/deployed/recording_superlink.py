"""`python recording_superlink.py FOLDER FILE`: our SuperLink, with a second reader on its wire.

Whatever comes to the public port, headers and body, is added to FILE as a line of JSON before
Flower sees it. Everything else is as in `fl_server/superlink.py`.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Any

from fedcohort.fl_server import superlink


def recorded(app: Any, file: Path) -> Any:
    """Return the ASGI app, with every request written down."""

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        parts: list[bytes] = []

        async def heard() -> Any:
            event = await receive()
            parts.append(bytes(event.get("body", b"")))
            return event

        try:
            await app(scope, heard, send)
        finally:
            line = {
                "at": time.time(),
                "path": scope["path"],
                "query": scope["query_string"].decode("latin-1"),
                "headers": [
                    [k.decode("latin-1"), v.decode("latin-1")] for k, v in scope["headers"]
                ],
                "body": base64.b64encode(b"".join(parts)).decode("ascii"),
            }
            with file.open("a", encoding="ascii") as log:
                log.write(json.dumps(line) + "\n")

    return inner


if __name__ == "__main__":
    folder, file = sys.argv[1], Path(sys.argv[2])  # Flower's own arguments come in their place
    fleet_only = superlink.fleet_only
    superlink.fleet_only = lambda app: recorded(fleet_only(app), file)
    superlink.main([folder])
