"""How many threads there are: environment variables, affinity, and CPU quotas of containers."""

from __future__ import annotations

import warnings

import pytest

import capgpu
from capgpu import threads
from capgpu.threads import cgroup_quota, thread_count, usable_processors


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    monkeypatch.delenv("CAPGPU_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads._first_of_list.cache_clear()
    usable_processors.cache_clear()
    yield
    usable_processors.cache_clear()


@pytest.mark.parametrize("setting", ["0", "-1", "two", "1.5", "4,3", "²"])
def test_an_invalid_capgpu_num_threads_is_refused(monkeypatch, setting):
    monkeypatch.setenv("CAPGPU_THREADS", setting)
    with pytest.raises(ValueError, match=rf"CAPGPU_THREADS: expected a number of threads, .* got '{setting}'"):
        thread_count()


@pytest.mark.parametrize(("setting", "count"), [("4", 4), ("4,3,2", 4), (" 2 ", 2), ("2,", 2), ("3 , 1", 3)])
def test_omp_num_threads_may_be_a_list(monkeypatch, setting, count):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert thread_count() == count


def test_capgpu_num_threads_takes_precedence(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    monkeypatch.setenv("CAPGPU_THREADS", "5")
    assert thread_count() == 5


@pytest.mark.parametrize("setting", ["0", "all", "1.0", "-2", ","])
def test_an_invalid_omp_num_threads_is_ignored_with_one_warning(monkeypatch, setting):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    with pytest.warns(RuntimeWarning, match=rf"OMP_NUM_THREADS: expected .* got '{setting}'; it is ignored"):
        assert thread_count() == usable_processors()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert thread_count() == usable_processors()


def test_an_empty_setting_counts_as_unset(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", " ")
    monkeypatch.setenv("CAPGPU_THREADS", "")
    assert thread_count() == usable_processors() >= 1


@pytest.mark.parametrize(("quota", "count"), [(None, 8), (0.5, 1), (2.0, 2), (3.9, 3), (64.0, 8)])
def test_a_quota_limits_the_processors(monkeypatch, quota, count):
    monkeypatch.setattr(threads, "cgroup_quota", lambda root: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_processors() == count


@pytest.mark.parametrize(
    ("name", "device"), [("cpu", "host, 3 processors, 4 threads"), ("numpy", "host, 3 processors")]
)
def test_the_processors_of_the_quota_and_the_threads_are_shown(monkeypatch, name, device):
    monkeypatch.setattr(threads, "cgroup_quota", lambda root: 3.5)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "4,2")
    with capgpu.use_backend(name):
        assert capgpu.backend_info()["device"] == device


def test_an_invalid_setting_is_shown_as_the_error(monkeypatch):
    monkeypatch.setenv("CAPGPU_THREADS", "many")
    with capgpu.use_backend("cpu"):
        assert capgpu.backend_info()["error"].startswith("CAPGPU_THREADS: expected a number of threads")


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        ({"proc/self/cgroup": "0::/../host/path\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3.0),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/job\n1:memory:/other\n",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/0123\n",  # the host's path, not mounted here
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "nonsense\n0::/\n", "sys/fs/cgroup/cpu.max": "1 2 3"}, None),
    ],
    ids=[
        "no control groups",
        "no controller",
        "v2",
        "v2 without limit",
        "v2 parent is lower",
        "v2 path of the host",
        "v1",
        "v1 path of the host",
        "v1 without limit",
        "nonsense",
    ],
)
def test_cpu_quotas_of_control_groups_are_read(tmp_path, files, quota):
    write(tmp_path, files)
    assert cgroup_quota(tmp_path) == quota


def test_ranks_on_one_machine_divide_its_processors_unless_they_are_bound(monkeypatch):
    for name, value in (("RANK", "1"), ("SIZE", "4"), ("LOCAL_RANK", "0"), ("LOCAL_SIZE", "2")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    monkeypatch.setattr(threads, "cgroup_quota", lambda root: None)
    own, launchers = set(range(8)), set(range(8))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: own if process == 0 else launchers)
    assert usable_processors() == 4
    usable_processors.cache_clear()
    own = set(range(4))  # bound by the launcher
    assert usable_processors() == 4
    usable_processors.cache_clear()
    monkeypatch.setattr(threads, "cgroup_quota", lambda root: 3.0)
    assert usable_processors() == 1
