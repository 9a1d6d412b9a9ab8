"""The directory of CPUs that a container sees, from a made-up host of four."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.procfs import cpuview

CPUS = range(4)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Two packages of two cores that share a cache."""
    made = tmp_path / "host"
    for name, content in {"online": "0-3", "offline": "", "present": "0-3", "possible": "0-3", "kernel_max": "255"}.items():
        _file(made / name, content)
    _file(made / "vulnerabilities/spectre_v1", "Mitigation: much")
    for cpu in CPUS:
        first = cpu // 2 * 2
        at = made / f"cpu{cpu}"
        _file(at / "online", "1")
        _file(at / "topology/core_id", str(cpu % 2))
        _file(at / "topology/thread_siblings_list", str(cpu))
        _file(at / "topology/thread_siblings", f"{1 << cpu:x}")
        _file(at / "topology/package_cpus_list", f"{first}-{first + 1}")
        _file(at / "topology/package_cpus", f"{3 << first:x}")
        _file(at / "cache/index3/shared_cpu_list", f"{first}-{first + 1}")
        _file(at / "cache/index3/shared_cpu_map", f"{3 << first:x}")
        _file(at / "cache/index3/size", "32768K")
        (at / "node0").symlink_to("../../node/node0")
    return made


def _file(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content + "\n")


@pytest.fixture
def top(tmp_path: Path, host: Path) -> Path:
    """The tmpfs, with the host's directory in it as a mount would show it."""
    made = tmp_path / "top"
    made.mkdir()
    (made / cpuview.HOST).symlink_to(host)
    return made


def cpus(top: Path) -> list[str]:
    return sorted(entry.name for entry in top.iterdir() if "cpu" in entry.name)


def read(top: Path, name: str) -> str:
    return (top / name).read_text().strip()


def test_there_is_a_directory_for_each_visible_cpu_and_for_no_other(top: Path, host: Path) -> None:
    cpuview.write(str(top), str(host), [1, 2])
    assert cpus(top) == ["cpu1", "cpu2"]
    assert all((top / name).is_dir() and not (top / name).is_symlink() for name in cpus(top))
    assert read(top, "cpu2/online") == "1"
    assert read(top, "kernel_max") == "255"
    assert read(top, "vulnerabilities/spectre_v1") == "Mitigation: much"
    assert str((top / "cpu1/node0").readlink()) == "../../node/node0", "at the depth that it was made for"


def test_lists_name_visible_cpus_only(top: Path, host: Path) -> None:
    cpuview.write(str(top), str(host), [1, 2, 3])
    assert (read(top, "cpu1/topology/package_cpus_list"), read(top, "cpu1/topology/package_cpus")) == ("1", "2")
    assert (read(top, "cpu3/topology/package_cpus_list"), read(top, "cpu3/topology/package_cpus")) == ("2-3", "c")
    assert (read(top, "cpu1/cache/index3/shared_cpu_list"), read(top, "cpu1/cache/index3/shared_cpu_map")) == ("1", "2")
    assert (read(top, "cpu1/topology/core_id"), read(top, "cpu1/cache/index3/size")) == ("1", "32768K")


def test_while_all_are_visible_nothing_is_copied(top: Path, host: Path) -> None:
    cpuview.write(str(top), str(host), CPUS)
    assert (top / "cpu0/topology").is_symlink()
    assert read(top, "cpu0/topology/package_cpus_list") == "0-1"


def test_limits_that_change_are_followed(top: Path, host: Path) -> None:
    for visible in (CPUS, [0], [2, 3], CPUS):
        cpuview.write(str(top), str(host), visible)
        assert cpus(top) == [f"cpu{number}" for number in visible]
        shown = {0: "0-1", 2: "2-3"} if len(visible) > 1 else {0: "0"}
        for number in set(shown) & set(visible):
            assert read(top, f"cpu{number}/topology/package_cpus_list") == shown[number]
    assert not [entry for entry in top.iterdir() if entry.name.startswith(".") and entry.name != cpuview.HOST]


def test_what_is_mounted_over_them_is_left_alone(top: Path, host: Path) -> None:
    cpuview.write(str(top), str(host), [0])
    (top / "online").write_text("a leaf")
    cpuview.write(str(top), str(host), CPUS)
    assert (top / "online").read_text() == "a leaf"


def test_leaves_have_files_to_be_mounted_over(top: Path, host: Path) -> None:
    cpuview.write(str(top), str(host), CPUS)
    for path, at in cpuview.mount_points(str(top)):
        assert Path(path).parent == Path(cpuview.DIRECTORY)
        assert Path(at).is_file()
        assert not Path(at).is_symlink()
