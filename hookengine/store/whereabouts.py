"""Where the files of the database are: their names, whether they are still those that were opened, and what disk has them."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")  # proc(5); where there is none, nobody can tell

# Of these each machine has its own memory, so that neither locks nor the shared index of the WAL hold between two.
_SHARED = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "9p", "lustre", "beegfs", "vboxsf", "davfs"),
    *(
        "fuse.glusterfs",
        "fuse.sshfs",
        "fuse.s3fs",
        "fuse.gcsfuse",
        "fuse.rclone",
        "fuse.ceph",
        "fuse.davfs2",
        "fuse.vmhgfs-fuse",
    ),
}


BESIDE = ("-wal", "-shm", ".lock", ".reserve")  # what a database has there, by what it adds to its name


class Files:
    """The names that belong to the database at *path*; where that is a link, all are beside the file that it leads to."""

    def __init__(self, path: Path) -> None:
        self.db = Path(os.path.realpath(path))  # a relative one that begins with `file:` would be a URI to SQLite
        self.wal, self.shm, self.lock, self.reserve = (self.db.with_name(self.db.name + suffix) for suffix in BESIDE)

    def size(self) -> int | None:
        """How many bytes the database itself has; None where it is not there, or nobody may know."""
        try:
            return self.db.stat().st_size
        except OSError:
            return None

    def left_behind(self) -> str | None:
        """
        What a database has left here that is taken away, or has nothing in it; None while it is there, or nothing else is.

        SQLite deletes a WAL that has no database, with what was accepted last. Where a stop has folded it into a file that
        somebody had taken away, the others still tell that there was one.
        """
        left = [str(path) for path in (self.wal, self.shm, self.reserve) if os.access(path, os.F_OK)]
        # Looked at after them: a first start has something in it before it makes one of these.
        size = self.size()
        if size or not left:
            return None
        what = "is not there" if size is None else "is empty"
        return f"{what}, but there is {' and '.join(left)}: put the database back, or take that away"


class Whereabouts:
    """
    The files that were opened under the names of the database at *path*, as they are now.

    One that is moved, deleted or replaced is still written to, and a next start finds another one, or none.
    """

    def __init__(self, path: Path) -> None:
        files = Files(path)
        names = (path, files.wal, files.shm, files.lock)
        self._files = [(name, found) for name in names if (found := _identity(name)) is not None]

    def lost(self) -> str | None:
        """What of it is not there any more; None while all is."""
        for name, identity in self._files:
            if _identity(name) != identity:
                return f"{name} was moved, deleted or replaced while it was in use"
        return None


def shared_by(path: Path) -> str | None:
    """The kind of file system that holds *path*, if it is one of the network's."""
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    real = path.resolve()
    depth, kind = -1, ""
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), before.split(" ")[4]))
        if real.is_relative_to(mounted) and len(mounted.parts) >= depth:  # a later one hides an earlier one
            depth, kind = len(mounted.parts), after.split(" ")[0]
    return kind if kind in _SHARED else None


def _identity(name: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = name.stat()
        return found.st_dev, found.st_ino
    return None
