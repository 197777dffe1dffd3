"""Releases: immutable directories of one queue, and the links that say which one is current and which was before.

Layout under the deployment directory::

    queues/<queue>/releases/<commit>-<environment key>[-<path>]/code/…
                                                               /release.json
                                                               /.in-use       locked by whoever uses it
    queues/<queue>/current   → releases/…      the release that last became ready
    queues/<queue>/previous  → releases/…      the one before
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from runqy_agent.deployment.environment import NAME_LENGTH
from runqy_agent.deployment.files import (
    flush,
    free_name,
    remove_tree,
    swap_symlink,
    temporary_sibling,
    write_atomically,
)
from runqy_agent.deployment.holds import make_holdable, unless_held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

_RECORD = "release.json"
_SHORT = 12


class ReleaseRecord(msgspec.Struct, frozen=True):
    """What ``release.json`` says.

    Attributes:
        commit: the commit, in full.
        branch: the branch, tag or commit name it was asked for by.
        git_url: the repository, without secrets.
        code_path: the directory of the code inside the checkout.
        environment: the key of its environment.
        created: when it was made, seconds since the epoch.
        directory: the name of its environment; empty in releases from before there could be several with one key.
        damaged: whether another one of the same was made instead: nothing is started from it any more.
    """

    commit: str
    branch: str
    git_url: str
    code_path: str
    environment: str
    created: float
    directory: str = ""
    damaged: bool = False

    @property
    def environment_name(self) -> str:
        """The name of its environment."""
        return self.directory or self.environment[:NAME_LENGTH]

    @property
    def name(self) -> str:
        """The directory's name, but for the number of a further one. Equal names mean equal files."""
        name = f"{self.commit[:_SHORT]}-{self.environment[:_SHORT]}"
        if self.code_path:
            name += f"-{hashlib.sha256(self.code_path.encode()).hexdigest()[:6]}"
        return name


class StoredRelease(msgspec.Struct, frozen=True):
    """A release on the disk."""

    path: Path
    record: ReleaseRecord

    @property
    def code(self) -> Path:
        """The root of its checkout."""
        return self.path / "code"


class ReleaseStore:
    """The releases of one queue. Changes need the lock of the deployment directory; looking does not."""

    def __init__(self, root: Path, queue: str) -> None:
        self.home = root / "queues" / directory_name(queue)
        self._releases = self.home / "releases"

    def stage(self) -> Path:
        """Make a directory in which a release can be put together."""
        self._releases.mkdir(parents=True, exist_ok=True)
        staging = temporary_sibling(self._releases / "any")
        staging.mkdir()
        (staging / "code").mkdir()
        return staging

    def publish(self, staging: Path, record: ReleaseRecord) -> StoredRelease:
        """Give a staged release its name, with a number if there is one of that name already."""
        make_holdable(staging)
        write_atomically(staging / _RECORD, msgspec.json.encode(record))
        flush(staging)
        path = self._releases / free_name(record.name, [path.name for path in self._named(record.name)])
        staging.rename(path)
        return StoredRelease(path, record)

    def supersede(self, release: StoredRelease) -> None:
        """Remove others of the same name, which are damaged; those that somebody uses are marked, and removed later."""
        for path in self._named(release.record.name):
            if path == release.path:
                continue
            with unless_held(path) as free:
                if free:
                    log.info("removing the release %s, instead of which there is another one", path.name)
                    remove_tree(path)
                elif stored := _read(path):
                    log.warning("the release %s is damaged, and stays as long as it is in use", path.name)
                    record = msgspec.structs.replace(stored.record, damaged=True)
                    write_atomically(path / _RECORD, msgspec.json.encode(record))

    def _named(self, name: str) -> list[Path]:
        return [path for path in self._releases.glob(f"{name}*") if path.name.partition(".")[0] == name]

    def current(self) -> StoredRelease | None:
        """The current release."""
        return self._linked("current")

    def previous(self) -> StoredRelease | None:
        """The release that was current before."""
        return self._linked("previous")

    def all(self) -> list[StoredRelease]:
        """All releases that are not known to be damaged, the newest first."""
        paths = self._releases.iterdir() if self._releases.is_dir() else ()
        releases = [release for path in paths if not path.name.startswith(".") and (release := _sound(path))]
        return sorted(releases, key=lambda release: release.record.created, reverse=True)

    def at(self, path: Path) -> StoredRelease | None:
        """The release in this directory, if it is one of this queue and whole."""
        return _read(path) if path.parent == self._releases else None

    def is_current(self, release: StoredRelease, branch: str) -> bool:
        """Whether this release is current, and asked for by this name."""
        current = self.current()
        return current is not None and current.path == release.path and current.record.branch == branch

    def activate(self, release: StoredRelease, branch: str) -> None:
        """Make a release the current one, and note the name by which it is asked for now."""
        if release.record.branch != branch:
            record = msgspec.structs.replace(release.record, branch=branch)
            write_atomically(release.path / _RECORD, msgspec.json.encode(record))
        current = self.current()
        if current is None or current.path != release.path:
            if current is not None and current.record.name != release.record.name:
                swap_symlink(self.home / "previous", f"releases/{current.path.name}")
            swap_symlink(self.home / "current", f"releases/{release.path.name}")

    def prune(self, keep: int, is_usable: Callable[[ReleaseRecord], bool]) -> None:
        """Remove all releases but the current, the previous, those in use, and the newest usable up to ``keep``."""
        linked = [release for release in (self.current(), self.previous()) if release]
        kept = [release.path for release in linked]
        usable = [release.path for release in self.all() if is_usable(release.record) and release.path not in kept]
        kept += usable[: max(0, keep - len(kept))]
        for path in self._releases.iterdir() if self._releases.is_dir() else ():
            if path in kept or path.name.startswith("."):
                continue
            with unless_held(path) as free:
                if free:
                    log.info("removing the old release %s", path.name)
                    remove_tree(path)

    def _linked(self, name: str) -> StoredRelease | None:
        link = self.home / name
        try:
            target = self._releases / link.readlink().name
        except OSError:
            return None
        return _sound(target)


def directory_name(queue: str) -> str:
    """A directory name for a queue; ``urllib.parse.unquote`` gives the queue back."""
    name = quote(queue, safe="")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def every_release(root: Path) -> Iterator[ReleaseRecord]:
    """The records of all releases of all queues."""
    for path in release_directories(root):
        if release := _read(path):
            yield release.record


def environments_needed(root: Path) -> set[str]:
    """The names of the environments of all releases, or, of one that cannot be read, how that name begins."""
    return {_environment_of(path) for path in release_directories(root)} - {""}


def environments_in_use(root: Path) -> set[str]:
    """The names of the environments of releases that somebody holds."""
    found = set()
    for path in release_directories(root):
        with unless_held(path) as free:
            if not free:
                found.add(_environment_of(path))
    return found


def _environment_of(path: Path) -> str:
    release = _read(path)
    return release.record.environment_name if release else path.name.partition("-")[2].partition("-")[0]


def release_directories(root: Path) -> Iterator[Path]:
    """The directories of all releases of all queues, also of those that are not whole."""
    return (path for path in root.glob("queues/*/releases/*") if not path.name.startswith("."))


def is_whole(path: Path) -> bool:
    """Whether what a release consists of is there."""
    return (path / _RECORD).is_file() and (path / "code").is_dir()


def _sound(path: Path) -> StoredRelease | None:
    """The release at ``path``, unless it is known to be damaged."""
    release = _read(path)
    return None if release is None or release.record.damaged else release


def _read(path: Path) -> StoredRelease | None:
    """The release at ``path``, or None if that is no whole release."""
    try:
        record = msgspec.json.decode((path / _RECORD).read_bytes(), type=ReleaseRecord)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as damaged:
        log.warning("ignoring the release %s, whose %s cannot be read: %s", path.name, _RECORD, damaged)
        return None
    return StoredRelease(path, record) if (path / "code").is_dir() else None
