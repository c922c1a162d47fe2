"""Control-group limits, read from made-up /proc and /sys trees."""

from pathlib import Path

import pytest

from steelyard.hardware.cgroup import cpu_quota, memory_allowance

V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime shared:6 - cgroup cgroup rw,memory\n"
)
V1_GROUPS = "4:memory:/jobs/one\n3:cpu,cpuacct:/jobs/one\n1:name=systemd:/\n"
UNLIMITED_V1 = "9223372036854771712\n"


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def _v2(root, groups, files):
    start = {"proc/self/mountinfo": V2_MOUNT, "proc/self/cgroup": groups}
    return _write(root, {**start, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})


def _v1(root, files):
    start = {"proc/self/mountinfo": V1_MOUNTS, "proc/self/cgroup": V1_GROUPS}
    return _write(root, {**start, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}})


def test_no_control_groups_is_no_limit(tmp_path):
    assert memory_allowance(tmp_path) is None
    assert cpu_quota(tmp_path) is None


def test_v2_limit_less_usage_plus_droppable_pages(tmp_path):
    root = _v2(
        tmp_path,
        "0::/a/b\n",
        {
            "a/b/memory.max": "1000\n",
            "a/b/memory.current": "700\n",
            "a/b/memory.stat": "anon 400\ninactive_file 200\nactive_file 100\n",
        },
    )
    allowance = memory_allowance(root)
    assert (allowance.limit_bytes, allowance.headroom_bytes) == (1000, 500)


def test_v2_the_tightest_ancestor_counts(tmp_path):
    root = _v2(
        tmp_path,
        "0::/a/b\n",
        {
            "a/b/memory.max": "max\n",
            "a/b/memory.current": "700\n",
            "a/memory.max": "5000\n",
            "a/memory.current": "4900\n",
            "memory.max": "2000\n",
            "memory.current": "100\n",
        },
    )
    allowance = memory_allowance(root)
    assert (allowance.limit_bytes, allowance.headroom_bytes) == (2000, 100)


def test_v2_unlimited(tmp_path):
    root = _v2(tmp_path, "0::/\n", {"memory.max": "max\n", "memory.current": "1\n", "cpu.max": "max 100000\n"})
    assert memory_allowance(root) is None
    assert cpu_quota(root) is None


def test_usage_beyond_the_limit_leaves_nothing(tmp_path):
    root = _v2(tmp_path, "0::/\n", {"memory.max": "100\n", "memory.current": "150\n"})
    assert memory_allowance(root).headroom_bytes == 0


def test_v1_limit(tmp_path):
    root = _v1(
        tmp_path,
        {
            "memory/jobs/one/memory.limit_in_bytes": "4096\n",
            "memory/jobs/one/memory.usage_in_bytes": "4000\n",
            "memory/jobs/one/memory.stat": "inactive_file 7\ntotal_inactive_file 1000\n",
            "memory/memory.limit_in_bytes": UNLIMITED_V1,
        },
    )
    allowance = memory_allowance(root)
    assert (allowance.limit_bytes, allowance.headroom_bytes) == (4096, 1096)


def test_v1_unlimited(tmp_path):
    root = _v1(tmp_path, {"memory/jobs/one/memory.limit_in_bytes": UNLIMITED_V1})
    assert memory_allowance(root) is None


def test_group_that_is_not_mounted_falls_back_to_the_mount(tmp_path):
    """Inside a container the path in /proc is often the host's, which is not visible."""
    root = _v2(tmp_path, "0::/host/docker/abc\n", {"memory.max": "300\n", "memory.current": "100\n"})
    assert memory_allowance(root).headroom_bytes == 200


def test_mounted_subtree_is_found_under_its_host_name(tmp_path):
    mounts = V2_MOUNT.replace(" / /sys", " /docker/abc /sys")
    root = _v2(tmp_path, "0::/docker/abc/inner\n", {"inner/memory.max": "300\n", "inner/memory.current": "100\n"})
    (root / "proc/self/mountinfo").write_text(mounts)
    assert memory_allowance(root).headroom_bytes == 200


@pytest.mark.parametrize(("text", "quota"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None)])
def test_v2_cpu_quota(tmp_path, text, quota):
    assert cpu_quota(_v2(tmp_path, "0::/a\n", {"a/cpu.max": text, "cpu.max": "400000 100000\n"})) == (quota or 4.0)


@pytest.mark.parametrize(("quota_us", "quota"), [("250000", 2.5), ("-1", None)])
def test_v1_cpu_quota(tmp_path, quota_us, quota):
    group = "cpu,cpuacct/jobs/one"
    root = _v1(tmp_path, {f"{group}/cpu.cfs_quota_us": quota_us, f"{group}/cpu.cfs_period_us": "100000\n"})
    assert cpu_quota(root) == quota


def test_garbage_is_no_limit(tmp_path):
    root = _v2(tmp_path, "nonsense\n0::/\n", {"memory.max": "lots\n"})
    (root / "proc/self/mountinfo").write_text("short - line\n" + V2_MOUNT)
    assert memory_allowance(root) is None
