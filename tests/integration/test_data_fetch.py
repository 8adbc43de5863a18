"""`benchkit data fetch`, `list`, `path` and `check`. What reads the HF_ variables runs in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.hub import Fault, Hub, benchkit, call, serving, use, variables
from helpers.hub_sets import CONTENT, QUORA, SST, sst

from benchkit.core.errors import UserError
from benchkit.hub.datasets import data_root


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        for repo, content in CONTENT.items():
            hub.add(f"datasets/{repo}", content)
        use(hub, tmp_path, monkeypatch)
        yield hub


def test_from_the_hub_to_a_table(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = benchkit("data", "fetch", "sst", "--revision", "main", env=variables(hub, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "sst: train 20, dev 10, test 10; from SetFit/sst5 at 0123456789ab" in done.stdout
    assert "Socher" in done.stdout
    assert "licence" in done.stdout
    assert call(capsys, "data", "path", "sst") == f"{data_root() / 'sst'}\n"
    listed = call(capsys, "data", "list")
    assert "fetched 20" in listed
    assert "not fetched, 35.0 MB: benchkit data fetch quora" in listed
    command = ("run", "--data", "hub", "--tasks", "sst", "--heads", "baseline", "--seeds", "1", "--phases", "pretrain")
    assert "train sst 20" in call(capsys, *command, "--set", "pretrain.epochs=1", "--out", str(tmp_path / "out"))
    with pytest.raises(
        UserError, match="--data hub has no quora, sts: benchkit data fetch quora sts, or leave them out"
    ):
        call(capsys, "run", "--data", "hub", "--dry-run")
    assert "is usable" in call(capsys, "data", "check", "hub")
    (data_root() / "sst" / "test.jsonl").write_bytes(sst(10, "changed"))
    with pytest.raises(SystemExit) as stopped:
        call(capsys, "data", "check", "hub")
    assert stopped.value.code == 1
    assert "test.jsonl has changed since it was fetched" in capsys.readouterr().err
    assert "benchkit data check hub says what" in call(capsys, "data", "list")


def test_killed_in_the_middle(hub: Hub, tmp_path: Path) -> None:
    """`kill -9` at a byte; the same command asks for the rest alone."""
    name, cut = QUORA.files[0].name, 3210
    hub.fail(name, Fault(cut=cut, stall=True))
    command = [sys.executable, "-m", "benchkit", "data", "fetch", "quora", "--revision", "main"]
    env = variables(hub, tmp_path)
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 300
        while not any(p.stat().st_size == cut for p in (tmp_path / "benchkit").rglob("*.part")):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    done = benchkit(*command[3:], env=env)
    assert done.returncode == 0, done.stderr
    assert [headers.get("range") for headers in hub.asked(name)] == [None, f"bytes={cut}-"]


def test_offline_unreachable_and_through_a_proxy(hub: Hub, tmp_path: Path) -> None:
    env = variables(hub, tmp_path)
    done = benchkit("data", "fetch", "sst", env=env | {"HF_HUB_OFFLINE": "1"})
    url = f"{hub.url}/datasets/SetFit/sst5/resolve/{SST.revision}/train.jsonl"
    by_hand = "by hand: get train.jsonl, dev.jsonl, test.jsonl elsewhere and give their folder: "
    by_hand += "benchkit data fetch sst --from DIR"
    assert (done.returncode, done.stderr) == (
        2,
        f"benchkit: error: cannot fetch {url}: HF_HUB_OFFLINE is set; {by_hand}\n",
    )
    done = benchkit("data", "fetch", "sst", env=env | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert done.returncode == 2
    assert "cannot fetch http://127.0.0.1:9/datasets/SetFit/sst5/resolve/" in done.stderr.splitlines()[-1]
    assert f"no connection ([Errno 111] Connection refused); {by_hand}" in done.stderr
    proxied = env | {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": hub.url, "HF_TOKEN": "good"}
    hub.repos["datasets/SetFit/sst5"].gated = True
    done = benchkit("data", "fetch", "sst", "--revision", "main", env=proxied)
    assert done.returncode == 0, done.stderr
    assert {headers["host"] for _, _, headers in hub.requests} == {"hub.invalid"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fetch", "sstt"), "unknown data set 'sstt'; did you mean 'sst'?"),
        (("fetch", "all", "--revision", "main"), "--revision is of one repository"),
        (("fetch", "sst", "--from", "nowhere"), "--from nowhere: no such folder"),
        (("path",), "nothing has been fetched yet for --data hub: run `benchkit data fetch all` first"),
        (("path", "sst"), "sst has not been fetched"),
        (("check", "hub"), "nothing has been fetched yet"),
    ],
)
def test_mistakes(hub: Hub, arguments: tuple[str, ...], message: str) -> None:
    from benchkit.cli import cli

    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        cli.main(["data", *arguments], standalone_mode=False)
