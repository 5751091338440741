"""
The log: lines on stderr, for people or as JSON. Invariant: a command's answer goes to stdout, its log never.
"""

import logging
import sys

from stocktake.cli.text import clean, clean_lines
from stocktake.errors import redact

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
# Libraries whose messages are of interest only at the level debug.
_NOISY = (
    "alembic",
    "asyncio",
    "keystoneauth",
    "oslo_concurrency",
    "oslo_db",
    "oslo_policy",
    "placement",
    "sqlalchemy",
    "urllib3",
    "uvicorn",
)
# These repeat at every try what stocktake.report.notifications says once of a message bus.
_SAID_BY_US = ("amqp", "kombu", "oslo.messaging", "oslo_messaging")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """`level name: message  key=value ...` for people; systemd adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line, extra fields at its end."""
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        told = "".join(f" {key}={value}" for key, value in extra.items())
        line = clean(redact(f"{record.levelname.lower()}: {record.getMessage()}{'  ' if told else ''}{told.strip()}"))
        if not record.exc_info:
            return line
        return f"{line}\n  {clean_lines(redact(self.formatException(record.exc_info)))}"


class StderrHandler(logging.Handler):
    """Writes to the current sys.stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; a log that can't be written stops nothing."""
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            self.handleError(record)


def wanted_level(setting: str, verbose: int, *, quiet: bool) -> int:
    """Give the level: --quiet and --verbose override the setting."""
    if quiet:
        return logging.ERROR
    if verbose:
        return logging.DEBUG if verbose > 1 else logging.INFO
    return _LEVELS[setting]


def log_to_stderr(level: int, *, as_json: bool) -> None:
    """Send everything from `level` on to stderr; called again, it replaces what was set up before."""
    handler = StderrHandler()
    handler.setFormatter(_json_formatter() if as_json else LineFormatter())
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known, StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING) if level > logging.DEBUG else logging.INFO)
    for name in _SAID_BY_US:
        logging.getLogger(name).setLevel(logging.CRITICAL if level > logging.DEBUG else logging.INFO)


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class RedactingFormatter(JsonFormatter):
        """One JSON object for each line; in JSON no character controls anything."""

        def format(self, record: logging.LogRecord) -> str:
            """Write one line."""
            return redact(super().format(record))

    return RedactingFormatter(
        "%(asctime)s %(levelname)s %(name)s %(message)s",
        rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        datefmt="%Y-%m-%dT%H:%M:%S%z",
    )
