"""The user's cache folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from capgpu.cache_folder import cache_folder


@pytest.mark.parametrize("setting", [None, "", "relative/folder"])
def test_without_an_absolute_xdg_cache_home_the_cache_is_in_the_home_folder(
    setting: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    if setting is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", setting)
    assert cache_folder() == tmp_path / ".cache" / "capgpu"
    assert not cache_folder().exists()


def test_an_absolute_xdg_cache_home_holds_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "capgpu"


def test_a_user_without_a_home_gets_a_folder_of_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as of a number that no user has
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder().parent == tmp_path
    assert cache_folder().name.startswith("capgpu")
