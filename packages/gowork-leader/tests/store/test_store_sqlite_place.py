"""A leader's store lies on a disk of its machine, and not on a file system of the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served_folder import served_folder

from gowork.leader.store._sqlite_place import NetworkFileSystemError, check_not_on_network, is_network, mount_in
from gowork.leader.store.protocol import StoreError

#: Lines as machines have them: EFS by its mount helper, NFS of version 3, SMB, WSL's drives, a container of Docker's
#: with a volume on the host's disk, and one that runs without root.
MOUNTINFO = """\
21 27 0:20 / /proc rw,nosuid,nodev,noexec,relatime shared:5 - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
411 27 0:52 / /mnt/efs rw,relatime shared:230 - nfs4 127.0.0.1:/ rw,vers=4.1,rsize=1048576,port=20049,addr=127.0.0.1
412 27 0:53 / /mnt/nfs\\0403 rw,relatime shared:231 master:2 - nfs filer:/export rw,vers=3
413 27 0:54 / /mnt/smb rw,relatime - cifs //filer/share rw,vers=3.1.1
414 27 0:55 / /mnt/c rw,noatime - 9p C:\\134 rw,dirsync,aname=drvfs
415 27 0:56 / /mnt/s3 rw,nosuid,nodev - fuse.mount-s3 mountpoint-s3 rw,user_id=0
416 27 0:57 / /dev/shm rw - tmpfs tmpfs rw,size=65536k
417 27 259:1 /var/lib/docker/volumes/gowork/_data /data rw,relatime master:1 - xfs /dev/nvme1n1 rw,noquota
418 27 0:58 / /layers rw,relatime - fuse.fuse-overlayfs fuse-overlayfs rw,user_id=0
419 27 8:17 / /mnt/stick rw,relatime - fuseblk /dev/sdb1 rw,user_id=0
420 27 0:59 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b,workdir=/c
421 27 0:60 / /mnt/vm rw,relatime - virtiofs shared rw
""".splitlines()


@pytest.mark.parametrize(
    ("id", "point", "kind", "refused"),
    [
        ("27", "/", "ext4", False),
        ("411", "/mnt/efs", "nfs4", True),
        ("412", "/mnt/nfs\\0403", "nfs", True),
        ("413", "/mnt/smb", "cifs", True),
        ("414", "/mnt/c", "9p", True),
        ("415", "/mnt/s3", "fuse.mount-s3", True),
        ("416", "/dev/shm", "tmpfs", False),
        ("417", "/data", "xfs", False),
        ("418", "/layers", "fuse.fuse-overlayfs", False),
        ("419", "/mnt/stick", "fuseblk", False),
        ("420", "/", "overlay", False),
        ("421", "/mnt/vm", "virtiofs", False),
    ],
)
def test_the_type_of_a_mount_tells_whether_a_store_may_lie_there(id: str, point: str, kind: str, refused: bool) -> None:
    assert mount_in(MOUNTINFO, id) == (point, kind)
    assert is_network(kind) is refused


def test_a_mount_that_is_not_listed_and_lines_that_are_none_tell_nothing() -> None:
    assert mount_in(MOUNTINFO, "41") is None
    assert mount_in(["", "41", "41 - ", "41 1 0:1 / - "], "41") is None


def test_a_store_on_tmpfs_and_one_in_a_directory_that_is_not_there_yet_are_taken(tmp_path: Path) -> None:
    check_not_on_network(tmp_path / "not" / "yet" / "gowork.db")
    check_not_on_network(Path("/dev/shm/gowork-none/gowork.db"))
    check_not_on_network(Path("/gowork.db"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    with served_folder(tmp_path) as folder:
        yield folder


def test_a_store_that_a_program_serves_is_refused_and_the_error_says_what_to_do(served: Path) -> None:
    for path in (served / "gowork.db", served / "not" / "yet" / "gowork.db"):
        with pytest.raises(NetworkFileSystemError) as caught:
            check_not_on_network(path)
        assert isinstance(caught.value, StoreError)
        for word in (f"{path} would be on", "fuse.test", f"mounted at {served}", "--data-dir", "--log"):
            assert word in str(caught.value)
        assert "--store-on-network-file-system" in str(caught.value)
    # What lies beside it, and under a link to elsewhere, is looked at where it is.
    check_not_on_network(served.parent / "gowork.db")
    (served.parent / "link").symlink_to(served)
    with pytest.raises(NetworkFileSystemError):
        check_not_on_network((served.parent / "link" / "gowork.db").resolve())
