"""Files are whole or not there: full disks, kills, stale leftovers, locks."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from benchkit.core.errors import UserError
from benchkit.store.files import locked, new_folder, write_atomic


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("durable", [True, False])
def test_a_write_replaces_the_content_and_leaves_nothing_else(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "file"
    write_atomic(path, b"old", durable=durable)

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        assert path.read_bytes() == b"old"

    with path.open("rb") as reader:
        write_atomic(path, write, durable=durable)
        assert reader.read() == b"old"  # another file took its place
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_writer_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_the_old_content(small_disk: Path) -> None:
    path = small_disk / "file"
    write_atomic(path, b"old")
    with pytest.raises(UserError, match=r"cannot write .*file: No space left on device; free some space") as error:
        write_atomic(path, bytes(2_000_000))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"old"
    assert list(small_disk.iterdir()) == [path]


def test_a_read_only_disk_is_one_line(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for attempt in (lambda: write_atomic(small_disk / "file", b""), lambda: _lock(small_disk / "lock")):
        with pytest.raises(UserError, match="Read-only file system; choose a folder that can be written"):
            attempt()


def test_dev_full_is_a_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")

    def write(file: BinaryIO) -> None:
        Path("/dev/full").write_bytes(b"x")

    with pytest.raises(UserError, match="No space left on device"):
        write_atomic(tmp_path / "file", write)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_file_sizes_is_one_line(tmp_path: Path) -> None:
    code = """if True:
        import resource, signal, sys
        from pathlib import Path
        from benchkit.core.errors import UserError
        from benchkit.store.files import write_atomic
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomic(Path(sys.argv[1]), bytes(2000))
        except UserError as error:
            print(error)
    """
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")], capture_output=True, text=True, check=True
    )
    assert out.stdout.count("\n") == 1
    assert "File too large; raise the limit on file sizes" in out.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        write_atomic(tmp_path / "file" / "x", b"")


def test_other_errors_pass(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        write_atomic(tmp_path / "file", write)


def test_a_killed_writer_of_a_folder_leaves_nothing_for_the_next(tmp_path: Path) -> None:
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from benchkit.store.files import new_folder
        with new_folder(Path(sys.argv[1])) as inside:
            (inside / "deep").mkdir()
            (inside / "deep" / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "new")], check=False)
    assert [path.name for path in tmp_path.rglob("half")] == ["half"]
    with new_folder(tmp_path / "new") as inside:
        (inside / "file").write_text("whole")
    assert list(tmp_path.rglob("*")) == [tmp_path / "new", tmp_path / "new" / "file"]


def test_a_killed_writer_leaves_the_old_content_and_the_next_write_cleans_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    for _ in range(3):
        _start_and_kill_writer(path)
        assert path.read_bytes() == b"old"
    assert len(list(tmp_path.glob(".*.tmp"))) == 1  # each writer removed what the one before it left
    write_atomic(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def _start_and_kill_writer(path: Path) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from benchkit.store.files import write_atomic
        def write(file):
            file.write(b"half")
            file.flush()
            print("writing", flush=True)
            time.sleep(60)
        write_atomic(Path(sys.argv[1]), write)
    """
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)


def test_temporary_files_of_others_stay_until_they_are_old(tmp_path: Path) -> None:
    seen: list[Path] = []

    def write(file: BinaryIO) -> None:
        seen.extend(tmp_path.glob(".*.tmp"))
        write_atomic(tmp_path / "inner", b"")  # must not take the outer write's file for stale
        file.write(b"x")

    write_atomic(tmp_path / "outer", write)
    assert (tmp_path / "outer").read_bytes() == b"x"
    (own,) = seen
    host = own.name.rsplit(".", 2)[1].partition("-")[0]
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    foreign = tmp_path / own.name.replace(f"{host}-{os.getpid()}", f"{'0' * 8}-{gone.pid}")
    foreign.write_bytes(b"")
    stranger = tmp_path / ".editor.tmp"
    stranger.write_bytes(b"")
    write_atomic(tmp_path / "file", b"")
    assert foreign.exists()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(foreign, (long_ago, long_ago))
    os.utime(stranger, (long_ago, long_ago))
    write_atomic(tmp_path / "file", b"")
    assert not foreign.exists()
    assert stranger.exists()


def test_a_lock_is_held_by_one_and_released_by_death(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    code = f"""if True:
        import time
        from pathlib import Path
        from benchkit.store.files import locked
        with locked(Path({str(path)!r}), wait=True) as held:
            print(held, flush=True)
            time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        with locked(path, wait=False) as held:
            assert not held
        waited: list[bool] = []

        def kill() -> None:
            waited.append(True)
            process.kill()

        with locked(path, wait=True, on_wait=kill) as held:
            assert held
        assert waited
    with locked(path, wait=False) as held:
        assert held


def test_a_lock_is_released_when_its_block_raises(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "lock", wait=True):
        raise RuntimeError
    assert _lock(tmp_path / "lock")


def _lock(path: Path) -> bool:
    with locked(path, wait=False) as held:
        return held
