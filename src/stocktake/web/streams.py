"""
Answers that go on: server-sent events. Invariant: a stream ends when the server does, and says at times that it lives.
"""

import asyncio
from typing import Final

MEDIA: Final = "text/event-stream"
ALIVE: Final = ": alive\n\n"
ALIVE_S: Final = 15.0
HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def either(one: asyncio.Event, other: asyncio.Event) -> bool:
    """Wait for one of two; False after a while of neither."""
    waits = {asyncio.create_task(event.wait()) for event in (one, other)}
    try:
        done, _ = await asyncio.wait(waits, timeout=ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
