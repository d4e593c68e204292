import numpy as np
import pytest

from mapping import memory


@pytest.mark.parametrize(
    "groups, limits, expected",
    [
        ("", {}, None),
        ("0::/\n", {"memory.max": "3000"}, 3000),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "5000", "memory.max": "9000"}, 5000),
        ("0::/a/b\n", {"a/b/memory.max": "max"}, None),
        (
            "0::/host/path/of/the/container\n",
            {"memory.max": "4000"},
            4000,
        ),  # which the container does not see
        ("5:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "7000"}, 7000),
        ("4:memory:/a/b\n", {"memory/a/memory.limit_in_bytes": "6000"}, 6000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, None),
    ],
)
def test_the_memory_is_the_containers_where_that_is_less_than_the_machines(
    tmp_path, groups, limits, expected
):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, limit in limits.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{limit}\n")
    machine = memory.installed(tmp_path / "no such folder")
    assert machine > 2**28
    assert memory.installed(tmp_path) == (machine if expected is None else expected)


def test_growth_is_what_a_piece_of_work_takes_at_most_though_it_gives_it_back():
    earlier = np.ones(2**26, np.uint8)
    del earlier  # a higher peak before
    for size in (2**24, 2**25):
        assert memory.growth(lambda: np.ones(size, np.uint8).sum()) == pytest.approx(size, rel=0.3)
