"""Where files are kept: a directory of a disk, or of a bucket in object storage, through pyarrow's filesystems.

    streamrec-snapshots, /var/lib/snapshots, file:///var/lib/snapshots
    s3://BUCKET/DIRECTORY?region=eu-central-1, gs://BUCKET/DIRECTORY

Credentials are found as other programs of the provider find them (AWS_ACCESS_KEY_ID, ~/.aws, the machine's role;
GOOGLE_APPLICATION_CREDENTIALS). Knows nothing of what is in the files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from pyarrow import fs

from streamrec.config.places import Place, place_of
from streamrec.errors import ConfigError, StateError, StateUnavailable

CONNECT_TIMEOUT_S = 5.0
SILENCE_S = 10.0
"""A request in which nothing moves for so long is given up..."""
TRIES = 3
"""...and made again, so often: object storage that is away is known to be within about 35 s."""
PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a disk that may pass: it is full, or has trouble."""
UNFINISHED = ".unfinished-"
_CHUNK_BYTES = 8 * 1024 * 1024
_REFUSED = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE", "TOKEN", "CREDENTIALS", "HTTP status 401"),
    *("HTTP status 403", "ExpiredToken", "InvalidToken", "PERMISSION_DENIED", "UNAUTHENTICATED"),
)
_NO_BUCKET = ("NO_SUCH_BUCKET", "bucket does not exist")
_AWAY = (
    *(
        "NETWORK_CONNECTION",
        "curlCode",
        "CURL error",
        "TIMEOUT",
        "INTERNAL_FAILURE",
        "SERVICE_UNAVAILABLE",
        "UNAVAILABLE",
    ),
    *("SLOW_DOWN", "THROTTLING", "HTTP status 429", "HTTP status 5", "DEADLINE_EXCEEDED"),
)
"""What is in the messages of object storage, by what it means; in other words they are told nowhere."""


class Storage:
    """The files in one directory.

    Guarantees: a file is there whole or not at all, also after a crash; on a disk it outlives a power cut. Object
    storage that does not answer is given up within a bounded time.

    Args:
        named: what gave the URL, for errors.

    Raises:
        ConfigError: the URL is none of these.
    """

    def __init__(self, url: str | Path, named: str = "snapshots.url") -> None:
        self._named = named
        try:
            place = Place("", str(url)) if isinstance(url, Path) else place_of(url)
        except ValueError as error:
            raise ConfigError(f"{named} is no place: {error}") from None
        self.url = f"{place.scheme}://{place.path}" if place.scheme else place.path
        """Where it is, without options."""
        self.local = None if place.scheme else Path(place.path)
        """The directory, if it is one of a disk."""
        self._base = place.path if self.local is None else str(self.local.absolute())
        self._files = _files_of(place)

    def make(self) -> None:
        """See that there is the directory; object storage has none that has to be made."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)

    def empty(self) -> bool:
        """Whether nothing is in it, or it is not there."""
        return not self._list(self._base)

    def folders(self) -> list[str]:
        """Names of the folders in it, none where it is not. What is only linked to is not ours."""
        found = self._list(self._base)
        names = [info.base_name for info in found if info.type == fs.FileType.Directory]
        return [name for name in names if self.local is None or not (self.local / name).is_symlink()]

    def files(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder; none where it is not."""
        return {info.base_name: info.size for info in self._list(self._at(folder)) if info.type == fs.FileType.File}

    def changed_ms(self, folder: str) -> int | None:
        """When something was last written in a folder, by the storage's own clock; None where it cannot be told."""
        told = [*self._list(self._at(folder)), self._files.get_file_info(self._at(folder))]
        return max((info.mtime_ns // 1_000_000 for info in told if info.mtime_ns is not None), default=None)

    def read(self, path: str) -> Iterator[bytes]:
        """A file, piece by piece."""
        with self._files.open_input_file(self._at(path)) as file:
            while piece := file.read(_CHUNK_BYTES):
                yield piece

    def write(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Write a file, FOLDER/NAME; the folder is made. If `pieces` raises, there is none on a disk."""
        if self.local is None:
            return self._stream(self._at(path), pieces)
        final = self.local / path
        draft = final.with_name(f"{UNFINISHED}{os.getpid()}-{final.name}")
        final.parent.mkdir(exist_ok=True)
        try:
            self._stream(str(draft), pieces)
            _sync(draft)
            draft.rename(final)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        _sync(final.parent)
        return None

    def settle(self) -> None:
        """See that new folders outlive a power cut."""
        if self.local is not None:
            _sync(self.local)

    def remove(self, folder: str, first: str) -> None:
        """Remove a folder, this file of it before the others. What is gone already is no error."""
        with suppress(FileNotFoundError):
            self._files.delete_file(self._at(f"{folder}/{first}"))
        with suppress(FileNotFoundError):
            self._files.delete_dir(self._at(folder))

    @contextmanager
    def errors(self, doing: str, *, writing: bool = False) -> Iterator[None]:
        """Tell trouble of the disk or of object storage as errors of ours, in one line each.

        Raises:
            StateUnavailable: it may pass: no network, no room. (Of a disk only in `writing`.)
            StateError: it will not: wrong credentials, no such bucket, no permission.
        """
        try:
            yield
        except OSError as error:
            if self.local is not None:
                kind = StateUnavailable if writing and error.errno in PASSING else StateError
                raise kind(f"{doing} in {self.url} failed: {error}; check space and permissions") from error
            said = " ".join(str(error).split()).partition(" (Request ID")[0]
            if any(word in said for word in _NO_BUCKET):
                kind, remedy = StateError, f"there is no such bucket: make it, or correct {self._named}"
            elif any(word in said for word in _REFUSED):
                kind, remedy = StateError, "check the credentials in the environment, and what they allow"
            elif any(word in said for word in _AWAY):
                kind = StateUnavailable
                remedy = f"it does not answer just now: check the network and {self._named}"
            else:
                kind, remedy = StateError, f"check {self._named}"
            raise kind(f"{doing} in {self.url} failed: {remedy} ({said[:300]})") from error

    def _at(self, path: str) -> str:
        return f"{self._base}/{path}"

    def _list(self, directory: str) -> list[fs.FileInfo]:
        # Not `allow_not_found`: it takes a bucket that is not there for an empty one.
        try:
            return list(self._files.get_file_info(fs.FileSelector(directory)))
        except FileNotFoundError:
            return []

    def _stream(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        with self._files.open_output_stream(path, compression=None) as file:
            for piece in pieces:
                file.write(piece)


def _files_of(place: Place) -> fs.FileSystem:
    match place.scheme:
        case "s3":
            return fs.S3FileSystem(
                **place.options,
                connect_timeout=CONNECT_TIMEOUT_S,
                request_timeout=SILENCE_S,
                retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
                background_writes=False,  # which would hold all that was written until it is sent
                allow_delayed_open=True,  # a small file in one request
            )
        case "gs":
            return fs.GcsFileSystem(**place.options, retry_time_limit=timedelta(seconds=TRIES * SILENCE_S))
        case _:
            return fs.LocalFileSystem()


def _sync(path: Path) -> None:
    """Force a file or directory to disk: also what another handle has written to it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
