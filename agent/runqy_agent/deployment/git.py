"""Fetching one commit of a repository, and checking out the part of it that is wanted."""

from __future__ import annotations

import asyncio
import difflib
import hashlib
import logging
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.deployment.commands import Command, run
from runqy_agent.deployment.files import remove_tree
from runqy_agent.deployment.source import is_full_commit, may_be_abbreviated_commit
from runqy_agent.deployment.working_tree import lfs_options, sparse_patterns
from runqy_agent.errors import GitError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runqy_agent.deployment.git_access import GitAccess
    from runqy_agent.deployment.working_tree import Checkout

log = logging.getLogger(__name__)

_ASK_SECONDS = 120.0
_FETCH_SECONDS = 3600.0
_LOCAL_SECONDS = 60.0
_REFS_BYTES = 4 * 1024 * 1024
_NEAR_NAMES = 10
_NEARNESS = 0.4
_MOST_PACKS = 50
_WHOLE_HISTORY = "--depth=2147483647"  # Git's documented way to say "no longer shallow", whether it was or not
_FAST = ("--depth=1", "--filter=blob:none")
_WITHOUT_FILTER = ("--depth=1", "--no-filter")
_PLAIN = ("--no-filter",)
_REFUSED = re.compile(
    r"shallow|filter|unadvertised object|not our ref|object.format|mismatched algorithms", re.IGNORECASE
)
_SHA256_DIGITS = 64
_FETCHED = "refs/runqy/fetched/"  # below it, a ref for each commit that is here, named by its id


class UnreachableError(GitError):
    """The repository could not be reached or read: another time it may work."""


class MissingRefError(GitError):
    """The repository answered, and has no such branch, tag or commit."""


@dataclass(frozen=True)
class Resolved:
    """What a branch, tag or commit name stands for now.

    Attributes:
        commit: the commit id; only its beginning if the name is an abbreviated commit.
        ref: the full name of the branch or tag; empty for a commit.
    """

    commit: str
    ref: str = ""

    def matches(self, commit: str) -> bool:
        """Whether ``commit`` is the commit meant."""
        return commit.startswith(self.commit)


class Repository:
    """A bare repository: the cache of what was fetched from one URL. It may be removed at any time.

    Only ``resolve`` may be used without holding the lock of the deployment directory.
    """

    def __init__(self, path: Path, access: GitAccess) -> None:
        self._path = path
        self._access = access

    @property
    def url(self) -> str:
        """The repository's URL, without any secret."""
        return self._access.location.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be blanked in Git's output."""
        return self._access.secrets

    async def resolve(self, branch: str) -> Resolved:
        """Ask the remote what ``branch`` stands for: a branch before a tag before an abbreviated commit.

        Raises:
            UnreachableError: the remote did not answer.
            MissingRefError: it has no such branch, tag or commit; names that come near are listed.
        """
        if is_full_commit(branch):
            return Resolved(branch)
        head, tag = f"refs/heads/{branch}", f"refs/tags/{branch}"
        refs = await self._list_refs(head, tag, f"{tag}^{{}}")
        for name, ref in ((head, head), (f"{tag}^{{}}", tag), (tag, tag)):
            if name in refs:
                return Resolved(refs[name], ref)
        if may_be_abbreviated_commit(branch):
            return Resolved(branch)
        raise MissingRefError(f"{self.url} has no branch or tag {branch!r}{await self._near(branch)}")

    async def obtain(self, wanted: Resolved, checkout: Checkout) -> None:
        """Fetch the commit wanted, unless it is here, and check it out; sets ``checkout.commit``.

        A cached repository that gives trouble, or a server that refuses what makes fetching fast, costs one more try:
        with a new repository and all blobs, and without a depth where the server knows none.

        Raises:
            UnreachableError: fetching or checking out failed.
            MissingRefError: there is no such commit.
        """
        plain = self._path / "plain"  # says that this server is known to need it
        ways = _PLAIN if plain.is_file() else _FAST
        try:
            checkout.commit = await self._fetch(wanted, *ways)
            await self.update(checkout)
        except UnreachableError as first:
            refused = _REFUSED.search(str(first)) is not None
            log.log(
                logging.WARNING if refused else logging.INFO,
                "starting over with a new copy of %s%s: %s",
                self.url,
                ", with all its history, and so from now on" if refused else "",
                first,
            )
            await asyncio.to_thread(remove_tree, self._path)
            checkout.commit = await self._fetch(wanted, *(_PLAIN if refused or ways is _PLAIN else _WITHOUT_FILTER))
            await self.update(checkout)
            if refused or ways is _PLAIN:
                plain.touch()

    async def update(self, checkout: Checkout) -> None:
        """Bring the files of a checkout to what it asks for now. Missing blobs are fetched in one go.

        Raises:
            UnreachableError: blobs could not be fetched or files not be written.
        """
        sparse = "true" if checkout.code_path else "false"
        if checkout.code_path:
            patterns = self._path / "info" / "sparse-checkout"
            patterns.parent.mkdir(exist_ok=True)
            wanted = "/*\n" if checkout.whole else sparse_patterns(checkout.code_path, checkout.extra)
            patterns.write_text(wanted, encoding="utf-8")
        await self._git(
            *("-c", "core.bare=false", *lfs_options()),
            *("-c", f"core.sparseCheckout={sparse}", "-c", "core.sparseCheckoutCone=false"),
            f"--work-tree={checkout.directory}",
            *("read-tree", "-m", "-u", checkout.commit),
            purpose=f"checking out {checkout.commit[:12]} of {self.url}",
            seconds=_FETCH_SECONDS,
            env={"GIT_INDEX_FILE": str(checkout.index)},
        )

    async def submodules(self, checkout: Checkout) -> list[tuple[str, str, str]]:
        """Path, URL and commit of each submodule that ``.gitmodules`` names and the commit has."""
        file = checkout.directory / ".gitmodules"
        if not file.is_file() or file.is_symlink():
            return []
        listed = await self._git("config", "--file", str(file), "--null", "--list", purpose="reading .gitmodules")
        said: dict[str, dict[str, str]] = {}
        for entry in filter(None, listed.split("\0")):
            key, _, value = entry.partition("\n")
            section, _, name = key.rpartition(".")
            said.setdefault(section, {})[name] = value
        urls = {each["path"]: each["url"] for each in said.values() if "path" in each and "url" in each}
        listed = await self._git(
            *("ls-tree", "-r", "-z", checkout.commit, "--", *urls), purpose=f"listing the submodules of {self.url}"
        )
        entries = (entry.partition("\t") for entry in listed.split("\0") if entry.startswith("160000 "))
        return [(path, urls[path], head.split()[2]) for head, _, path in entries if path in urls]

    async def _fetch(self, wanted: Resolved, *options: str) -> str:
        await self._prepare("sha256" if len(wanted.commit) == _SHA256_DIGITS else "sha1")
        mark = _FETCHED + wanted.commit
        if is_full_commit(wanted.commit):
            if await self._has(wanted.commit):
                return wanted.commit
            try:
                await self._fetch_refs(f"+{wanted.ref or wanted.commit}:{mark}", options=options)
                return await self._commit_of(mark)  # another one, if the branch has moved just now
            except UnreachableError:
                if wanted.ref:
                    raise
                log.info("%s does not hand out single commits; fetching its history", self.url)
        everything = ("+refs/heads/*:refs/runqy/heads/*", "+refs/tags/*:refs/runqy/tags/*")
        whole = [_WHOLE_HISTORY if option.startswith("--depth") else option for option in options]
        await self._fetch_refs(*everything, options=whole)
        try:
            commit = await self._commit_of(wanted.commit)
        except UnreachableError as missing:
            raise MissingRefError(f"no branch or tag of {self.url} holds a commit {wanted.commit}") from missing
        await self._git("update-ref", _FETCHED + commit, commit, purpose=f"noting {commit} of {self.url}")
        return commit

    async def _has(self, commit: str) -> bool:
        """Whether the commit was fetched before. To ask for the commit itself would make git fetch it."""
        command = ("for-each-ref", "--format=%(objectname) %(*objectname)", _FETCHED + commit)
        return commit in (await self._git(*command, purpose=f"looking for {commit} in {self._path}")).split()

    async def _prepare(self, object_format: str) -> None:
        """See to it that the repository exists, is not locked by a killed git, and knows its remote."""
        if await asyncio.to_thread(_count_packs, self._path) > _MOST_PACKS:
            await asyncio.to_thread(remove_tree, self._path)
        if not await asyncio.to_thread(_is_repository, self._path):
            await asyncio.to_thread(remove_tree, self._path)
            command = [*("git", *self._access.options), *("init", "--quiet", "--bare", "--template=")]
            command += [] if object_format == "sha1" else [f"--object-format={object_format}"]
            command.append(str(self._path))
            await self._run(command, f"creating {self._path}", _LOCAL_SECONDS)
        await asyncio.to_thread(remove_stale_locks, self._path)
        await self._git("config", "remote.origin.url", self.url, purpose=f"configuring {self._path}")

    async def _fetch_refs(self, *refspecs: str, options: Sequence[str]) -> None:
        await self._git(
            *("fetch", "--quiet", "--no-tags", "--force", "--no-recurse-submodules", *options, "origin"),
            *refspecs,
            purpose=f"fetching {self.url}",
            seconds=_FETCH_SECONDS,
        )

    async def _commit_of(self, revision: str) -> str:
        arguments = ("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        out = await self._git(*arguments, purpose=f"looking up {revision} of {self.url}", seconds=_FETCH_SECONDS)
        return out.split()[-1]

    async def _list_refs(self, *patterns: str) -> dict[str, str]:
        kinds = () if patterns else ("--heads", "--tags")
        command = ["git", *self._access.options, "ls-remote", *kinds, "--", self.url]
        out = await self._run([*command, *patterns], f"asking {self.url} for its branches", _ASK_SECONDS, _REFS_BYTES)
        pairs = (line.split("\t", 1) for line in out.splitlines() if "\t" in line)
        return {name: commit for commit, name in pairs}

    async def _near(self, branch: str) -> str:
        refs = await self._list_refs()
        names = sorted({name.split("/", 2)[2] for name in refs if not name.endswith("^{}") and name.count("/") > 1})
        near = difflib.get_close_matches(branch, names, _NEAR_NAMES, _NEARNESS) or names[:_NEAR_NAMES]
        return f"; it has {', '.join(near)}" if near else "; it is empty"

    async def _git(
        self, *arguments: str, purpose: str, seconds: float = _LOCAL_SECONDS, env: dict[str, str] | None = None
    ) -> str:
        command = ["git", f"--git-dir={self._path}", *self._access.options, *arguments]
        return await self._run(command, purpose, seconds, env=env)

    async def _run(
        self, argv: Sequence[str], purpose: str, seconds: float, keep: int = 65536, *, env: dict[str, str] | None = None
    ) -> str:
        command = Command(
            argv,
            purpose=purpose,
            env={**self._access.env, **(env or {})},
            error=UnreachableError,
            seconds=seconds,
            secrets=self._access.secrets,
            keep=keep,
        )
        return await run(command)


def repository_name(url: str) -> str:
    """The directory name of the cache of what was fetched from ``url``."""
    return hashlib.sha256(url.encode()).hexdigest()[:20]


def _is_repository(path: Path) -> bool:
    return (path / "HEAD").is_file() and (path / "objects").is_dir()


def _count_packs(path: Path) -> int:
    return sum(1 for _ in (path / "objects" / "pack").glob("*.pack"))


def remove_stale_locks(path: Path) -> None:
    """Remove Git's lock files: under the lock of the deployment directory, they belong to processes long dead."""
    for directory, _, names in os.walk(path):
        for name in names:
            if name.endswith(".lock"):
                os.unlink(os.path.join(directory, name))  # noqa: PTH108, PTH118 - os.walk gives strings
