"""
Whether the state path is still the one that the agent began with. Invariant: what was removed or replaced is said, and
never made anew in silence.

A pass over a state path that is gone would give this host a new identity. The databases in it see to themselves.
"""

import logging
from pathlib import Path

from stocktake.errors import StateLost
from stocktake.settings.state_files import ComputeIdFile, FileId, exposure, file_id

LOG = logging.getLogger(__name__)

_REMEDY = (
    "Put it back; or, if it is to be so, restart the agent, which goes on with what is there then. Until then nothing "
    "is refreshed or written."
)


class StateWatch:
    """Remembers the state path, and this host's id in it, since they are there."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._directory: FileId | None = None
        self._compute_id: str | None = None
        self._exposed: tuple[str, str] | None = None

    def check(self, state_path: Path) -> None:
        """
        Compare the state path with what it was; two calls of the system and a small file.

        Raises:
            StateLost: it, or the file with this host's id, was removed or replaced.
            IdentityError: that file can't be read.
        """
        if state_path != self._path:
            self._path, self._directory, self._compute_id = state_path, None, None
        found = file_id(state_path)
        if self._directory is not None and found != self._directory:
            what = "the directory was removed" if found is None else "another directory took its place"
            raise StateLost(f"{what} while the agent runs", where=str(state_path), remedy=_REMEDY)
        self._directory = found
        file = ComputeIdFile(state_path)
        kept = file.read()
        if self._compute_id is not None and kept != self._compute_id:
            what = "was removed" if kept is None else f"was changed from {self._compute_id} to {kept}"
            raise StateLost(f"it {what} while the agent runs", where=str(file.path), remedy=_REMEDY)
        self._compute_id = kept
        self._tell_exposure(state_path)

    def _tell_exposure(self, state_path: Path) -> None:
        """Say once that others may get at the state path."""
        exposed = exposure(state_path)
        if exposed is not None and exposed != self._exposed:
            LOG.warning("%s. %s", *exposed, extra={"about": str(state_path)})
        self._exposed = exposed
