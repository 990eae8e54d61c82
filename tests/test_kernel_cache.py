"""The folder for CuPy's compiled kernels: whose it is, whether it can be written, and what the environment shows."""

from __future__ import annotations

import logging
import os
import stat

import pytest

from capgpu import kernel_cache

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch):
    monkeypatch.setattr(kernel_cache, "_chosen", {})
    monkeypatch.setattr(kernel_cache, "_temporary", None)
    yield
    if kernel_cache._temporary is not None:
        kernel_cache._temporary.cleanup()


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "kernels"
    monkeypatch.setenv("CUPY_CACHE_DIR", str(folder))
    return folder


def seen_at_import():
    with kernel_cache.provided():
        return os.environ["CUPY_CACHE_DIR"]


def test_a_folder_owned_by_this_user_is_used_unchanged(cache_folder, caplog):
    assert seen_at_import() == kernel_cache.folder() == str(cache_folder)
    assert os.environ["CUPY_CACHE_DIR"] == str(cache_folder)
    assert caplog.records == []


def test_without_a_setting_the_folder_is_cupys_default_and_none_is_set(tmp_path, monkeypatch):
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert seen_at_import() == kernel_cache.folder() == str(tmp_path / ".cupy" / "kernel_cache")
    assert "CUPY_CACHE_DIR" not in os.environ


def test_inside_another_users_folder_a_folder_for_this_user_is_used(cache_folder, monkeypatch):
    cache_folder.mkdir()
    mine = os.geteuid()
    entries = [cache_folder / f"user-{mine}"]
    # the folder belongs to another user than the one who asks; what is created in it does not
    is_private = kernel_cache._is_private
    monkeypatch.setattr(kernel_cache, "_is_private", lambda place: place != cache_folder and is_private(place))
    assert seen_at_import() == kernel_cache.folder() == str(entries[0])
    assert stat.S_IMODE(entries[0].stat().st_mode) == 0o700
    assert os.environ["CUPY_CACHE_DIR"] == str(cache_folder)


def test_inside_a_world_writable_folder_a_folder_for_this_user_is_used(cache_folder):
    cache_folder.mkdir()
    cache_folder.chmod(0o1777)
    assert seen_at_import() == str(cache_folder / f"user-{os.geteuid()}")


def test_a_folder_belongs_to_its_owner_unless_all_can_write_it(cache_folder, monkeypatch):
    cache_folder.mkdir()
    assert kernel_cache._is_private(cache_folder)
    cache_folder.chmod(0o777)
    assert not kernel_cache._is_private(cache_folder)
    cache_folder.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: cache_folder.stat().st_uid + 1)
    assert not kernel_cache._is_private(cache_folder)


def test_a_user_folder_created_by_another_user_is_not_used(cache_folder, monkeypatch, caplog):
    cache_folder.mkdir()
    monkeypatch.setattr(kernel_cache, "_is_private", lambda place: False)
    used = seen_at_import()
    assert not used.startswith(str(cache_folder))
    assert os.access(used, os.W_OK)
    assert "belongs to another user" in caplog.text
    assert "Set CUPY_CACHE_DIR to a folder that can be written" in caplog.text


def test_if_nothing_is_writable_one_temporary_folder_is_used_with_one_warning(tmp_path, monkeypatch, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(blocked / "kernels"))
    with caplog.at_level(logging.WARNING):
        first, second = seen_at_import(), seen_at_import()
    assert first == second == kernel_cache.folder()
    assert os.access(first, os.W_OK)
    assert len(caplog.records) == 1
    assert os.environ["CUPY_CACHE_DIR"] == str(blocked / "kernels")


def test_the_environment_is_restored_if_an_import_fails(cache_folder):
    environment = dict(os.environ)
    with pytest.raises(ImportError), kernel_cache.provided():
        raise ImportError("no libcuda")
    with pytest.raises(ImportError), kernel_cache.in_memory():
        raise ImportError("no libnvrtc")
    assert dict(os.environ) == environment
