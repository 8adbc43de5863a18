"""Plugins: miniature ones made here, as files and as installed distributions with entry points."""

from __future__ import annotations

import importlib
import inspect
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchkit.core.errors import UserError
from benchkit.core.plugins import Plugins, load_plugins
from benchkit.core.record import Record

HEAD = """
from dataclasses import dataclass
from benchkit import HeadSpec, hookimpl
from torch import nn

@dataclass(frozen=True)
class Config:
    width: int = 4

class Net(nn.Module):
    pass

def spec(name):
    return HeadSpec(name, "A head.", Net, Config)
"""


def provides(*names: str) -> str:
    return HEAD + f"\n@hookimpl\ndef benchkit_heads():\n    return [spec(name) for name in {list(names)}]\n"


class Site:
    """A folder on `sys.path` into which tiny distributions are installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def install(self, distribution: str, source: str, entry: str = "") -> None:
        """A distribution with one module and one entry point, named `entry` (default: like the distribution)."""
        module = f"tiny_{distribution.replace('-', '_')}"
        (self.folder / f"{module}.py").write_text(source, encoding="utf-8")
        info = self.folder / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[benchkit]\n{entry or distribution} = {module}\n", encoding="utf-8")
        self.modules.append(module)
        importlib.invalidate_caches()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = Site(tmp_path)
    yield found
    for module in found.modules:
        sys.modules.pop(module, None)


def error_of(plugins: Plugins, name: str) -> str:
    return next(plugin.error for plugin in plugins.plugins if plugin.name == name)


def a_record() -> Record:
    return Record("k", "baseline", 0, "ok", {})


def test_the_built_in_plugins_come_through_entry_points() -> None:
    plugins = load_plugins()
    assert {"baseline", "recurrent", "cnn"} <= set(plugins.heads)
    assert {"sst", "quora", "sts"} <= set(plugins.tasks)
    assert "demo" in plugins.encoders
    assert all(
        plugin.distribution.startswith("benchkit ") for plugin in plugins.plugins if plugin.name in plugins.heads
    )
    assert not any(plugin.error for plugin in plugins.plugins)


def test_an_installed_distribution_is_found(site: Site) -> None:
    site.install("tiny-heads", provides("one", "two"))
    plugins = load_plugins()
    assert {"one", "two", "baseline"} <= set(plugins.heads)
    assert plugins.head("one").summary == "A head."
    plugin = next(plugin for plugin in plugins.plugins if plugin.name == "tiny-heads")
    assert (plugin.distribution, plugin.module, plugin.error) == ("tiny-heads 1.2", "tiny_tiny_heads", "")


def test_a_file_can_be_given_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(provides("mine"), encoding="utf-8")
    plugins = load_plugins([file])
    assert {"mine", "baseline"} <= set(plugins.heads)
    assert plugins.owners["head", "mine"] == str(file)
    assert plugins.head("mine").source() != plugins.head("baseline").source()
    assert "mine" not in load_plugins().heads, "plugins are loaded afresh each time"


def test_files_may_be_called_alike_or_like_a_plugin(tmp_path: Path) -> None:
    files = [tmp_path / "one" / "heads.py", tmp_path / "two" / "heads.py", tmp_path / "cnn.py"]
    for number, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        file.write_text(provides(f"mine{number}"), encoding="utf-8")
    plugins = load_plugins(files)
    assert {"mine0", "mine1", "mine2", "cnn"} <= set(plugins.heads)
    sources = {Path(inspect.getfile(plugins.head(f"mine{number}").cls)) for number in range(3)}
    assert sources == set(files)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.py", None, "no head file at"),
        ("heads.txt", provides("mine"), r"must end in \.py"),
        ("broken.py", "import a_module_that_is_not_there", "a_module_that_is_not_there"),
        ("again.py", provides("baseline"), r"'baseline' comes from both benchkit .* and .*again\.py"),
    ],
)
def test_a_file_that_was_asked_for_must_load(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        load_plugins([file])
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plugin_may_bring_a_task(site: Site) -> None:
    source = "from benchkit import TaskSpec\nfrom benchkit.nn.losses import cross_entropy\n"
    source += "from benchkit.nn.metrics import accuracy\nLOSSES, FILES = {'ce': cross_entropy}, ('{split}.tsv',)\n"
    source += "TASK = TaskSpec('topic', '', ('text',), 'label', accuracy, LOSSES, FILES, ('a', 'b'))\n"
    site.install("tiny", HEAD + source + "@hookimpl\ndef benchkit_tasks():\n    return [TASK]\n")
    assert load_plugins().task("topic").classes == ("a", "b")


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("raise ValueError", "ValueError"),
        ("import sys; sys.exit('not today')", "SystemExit: not today"),
        (
            "class Panic(BaseException): pass\nraise Panic('from an extension module')",
            "Panic: from an extension module",
        ),
        ("def broken(:", "SyntaxError"),
        (HEAD + "@hookimpl\ndef benchkit_heads():\n    raise OSError('no disk')\n", "OSError: no disk"),
        (HEAD + "@hookimpl\ndef benchkit_heads():\n    raise SystemExit\n", "SystemExit"),
        (HEAD + "@hookimpl\ndef benchkit_heads():\n    yield spec('one')\n    raise OSError('half-way')\n", "half-way"),
        (HEAD + "@hookimpl\ndef benchkit_heads(size):\n    return []\n", "size"),
        (
            HEAD + "from benchkit import UserError\n@hookimpl\ndef benchkit_heads():\n    raise UserError('mine')\n",
            "mine",
        ),
    ],
)
def test_a_broken_plugin_is_listed_and_takes_nothing_down(site: Site, source: str, error: str) -> None:
    site.install("broken", source)
    site.install("sound", provides("sound-head"))
    plugins = load_plugins()
    assert {"sound-head", "baseline", "recurrent", "cnn"} <= set(plugins.heads)
    assert error in error_of(plugins, "broken")
    assert "\n" not in error_of(plugins, "broken")
    with pytest.raises(UserError) as caught:
        plugins.head("one")
    assert "broken" in str(caught.value)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("returned", ["None", "3", "['baseline']", "[None]", "[HeadSpec]", "[object()]", "{'tiny': 1}"])
@pytest.mark.parametrize("hook", ["benchkit_heads", "benchkit_tasks", "benchkit_encoders"])
def test_garbage_from_a_hook_breaks_its_plugin_only(site: Site, hook: str, returned: str) -> None:
    site.install("tiny", HEAD + f"\n@hookimpl\ndef {hook}():\n    return {returned}\n")
    plugins = load_plugins()
    assert "baseline" in plugins.heads
    assert error_of(plugins, "tiny")


def test_a_spec_from_the_wrong_hook_breaks_its_plugin_only(site: Site) -> None:
    site.install("tiny", HEAD + "\n@hookimpl\ndef benchkit_tasks():\n    return [spec('tiny')]\n")
    plugins = load_plugins()
    assert "tiny" not in plugins.tasks
    assert error_of(plugins, "tiny")


def test_a_broken_plugin_leaves_no_hook_behind(site: Site) -> None:
    source = provides("one") + "\n@hookimpl\ndef benchkit_tasks():\n    raise OSError\n"
    source += "\n@hookimpl\ndef benchkit_record(record):\n    raise OSError('observed')\n"
    site.install("broken", source)
    plugins = load_plugins()
    assert "one" not in plugins.heads
    assert plugins.observe(a_record()) == []


def test_one_head_name_from_two_distributions_names_both(site: Site) -> None:
    site.install("first-heads", provides("same"))
    site.install("second-heads", provides("same"))
    with pytest.raises(UserError, match=r"'same'.*first-heads 1\.2.*second-heads 1\.2") as caught:
        load_plugins()
    assert "\n" not in str(caught.value)


def test_nobody_can_replace_a_built_in_head(site: Site) -> None:
    site.install("usurper", provides("baseline"))
    with pytest.raises(UserError, match=r"'baseline'.*benchkit.*usurper 1\.2"):
        load_plugins()


def test_one_head_name_twice_in_one_plugin_is_an_error(site: Site) -> None:
    site.install("twice", provides("same", "same"))
    with pytest.raises(UserError, match=r"'same'.*twice 1\.2"):
        load_plugins()


def test_two_distributions_may_call_their_entry_points_alike(site: Site) -> None:
    observer = "\n@hookimpl\ndef benchkit_record(record):\n    raise OSError('observed')\n"
    site.install("first-heads", provides("one") + observer, entry="heads")
    site.install("second-heads", provides("two"), entry="heads")
    plugins = load_plugins()
    assert {"one", "two"} <= set(plugins.heads)
    assert len(plugins.observe(a_record())) == 1, "the first plugin's observer is still there"


def test_a_misspelt_hook_is_named_with_its_plugin_and_the_nearest(site: Site) -> None:
    site.install("typo", HEAD + "\n@hookimpl\ndef benchkit_head():\n    return []\n")
    with pytest.raises(UserError, match=r"typo 1\.2.*'benchkit_head'.*did you mean 'benchkit_heads'") as caught:
        load_plugins()
    assert "\n" not in str(caught.value)


def test_a_hook_may_have_another_function_name(site: Site) -> None:
    source = "\n@hookimpl(specname='benchkit_heads')\ndef heads():\n    return [spec('tiny')]\n"
    site.install("tiny", HEAD + source)
    assert load_plugins().head("tiny").name == "tiny"


def test_the_environment_restricts_plugins(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("tiny-heads", provides("one"))
    monkeypatch.setenv("BENCHKIT_PLUGINS", "tiny-heads, cnn")
    assert set(load_plugins().heads) == {"one", "cnn"}
    monkeypatch.setenv("BENCHKIT_PLUGINS", "")
    assert load_plugins().plugins == []


def test_the_environment_settles_a_clash(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.install("usurper", provides("baseline"))
    monkeypatch.setenv("BENCHKIT_PLUGINS", "usurper")
    assert load_plugins().owners["head", "baseline"] == "usurper 1.2"


def test_a_leftover_of_an_uninstalled_distribution_is_harmless(site: Site) -> None:
    site.install("leftover", provides("one"))
    (site.folder / "tiny_leftover-1.2.dist-info" / "METADATA").unlink()
    (site.folder / "tiny_leftover.py").unlink()
    shutil.rmtree(site.folder / "__pycache__", ignore_errors=True)
    plugins = load_plugins()
    assert "baseline" in plugins.heads
    assert "tiny_leftover" in error_of(plugins, "leftover")


def observer(body: str) -> str:
    return f"from benchkit import hookimpl\nSEEN = []\n@hookimpl\ndef benchkit_record(record):\n    {body}\n"


def test_an_observer_sees_the_record(site: Site) -> None:
    site.install("watcher", observer("SEEN.append(record)"))
    assert load_plugins().observe(a_record()) == []
    assert [a_record()] == sys.modules["tiny_watcher"].SEEN


@pytest.mark.parametrize("error", ["OSError('disk\\nfull')", "SystemExit('disk')"])
def test_an_observer_that_fails_is_named_and_stops_nobody(site: Site, error: str) -> None:
    site.install("bad", observer(f"raise {error}"))
    site.install("after", observer("SEEN.append(record)"))
    site.install("before", observer("SEEN.append(record)"))
    (line,) = load_plugins().observe(a_record())
    assert "bad" in line
    assert "disk" in line
    assert "\n" not in line
    assert sys.modules["tiny_after"].SEEN == sys.modules["tiny_before"].SEEN == [a_record()]


def test_an_unknown_head_names_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown head 'basline'; did you mean 'baseline'"):
        load_plugins().head("basline")


def test_an_unknown_task_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"unknown task 'news'.*quora, sst, sts"):
        load_plugins().task("news")
