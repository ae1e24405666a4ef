"""Threads per board: a pure function over descriptions, and the reader over a pretended /sys."""

from engine.llama.threads import Board, Cpu, choose_threads, read_board, useful_threads


def cores(count, *, first=0, capacity=0, khz=0, efficient=False):
    return tuple(Cpu(n, (0, n), capacity, khz, efficient) for n in range(first, first + count))


def smt(count, *, khz=0):
    """Cores of two hardware threads, numbered as Linux does: all first threads, then all second."""
    return tuple(Cpu(n, (0, n % count), 0, khz) for n in range(2 * count))


def test_four_equal_cores_of_a_raspberry_pi_5_are_all_used():
    assert choose_threads(Board(cores(4, khz=2_400_000))) == 4


def test_two_equal_clusters_of_a_jetson_orin_are_all_used():
    assert choose_threads(Board(cores(6, capacity=1024, khz=1_510_400))) == 6


def test_only_the_big_cores_of_an_rk3588_are_used():
    little = cores(4, capacity=530, khz=1_800_000)
    big = cores(4, first=4, capacity=1024, khz=2_400_000)
    assert choose_threads(Board(little + big)) == 4


def test_clocks_tell_big_from_little_where_capacity_is_unknown():
    little = cores(4, khz=1_800_000)
    big = cores(4, first=4, khz=2_400_000)
    assert choose_threads(Board(little + big)) == 4


def test_hardware_threads_of_one_core_count_once():
    assert choose_threads(Board(smt(8, khz=5_000_000))) == 8


def test_a_favoured_core_with_a_higher_clock_does_not_push_the_others_out():
    cpus = cores(1, khz=5_200_000) + cores(7, first=1, khz=5_000_000)
    assert choose_threads(Board(cpus)) == 8


def test_hybrid_intel_uses_performance_cores_once_each():
    performance = smt(6, khz=5_200_000)
    efficient = cores(8, first=12, khz=4_300_000, efficient=True)
    assert choose_threads(Board(performance + efficient)) == 6


def test_a_processor_of_efficient_cores_only_uses_them():
    assert choose_threads(Board(cores(4, khz=3_400_000, efficient=True))) == 4


def test_little_cores_alone_are_used_when_the_big_ones_are_not_ours():
    assert choose_threads(Board(cores(4, capacity=530))) == 4


def test_a_quota_is_rounded_down_but_never_to_nothing():
    assert choose_threads(Board(cores(4), quota=1.5)) == 1
    assert choose_threads(Board(cores(4), quota=3.9)) == 3
    assert choose_threads(Board(cores(4), quota=0.2)) == 1
    assert choose_threads(Board(cores(4), quota=64.0)) == 4


def test_a_wish_is_honoured_up_to_the_processors_there_are():
    assert choose_threads(Board(smt(4)), wanted=6) == 6
    assert choose_threads(Board(smt(4)), wanted=1000) == 8
    assert choose_threads(Board(()), wanted=1000) == 1


def test_a_small_model_does_not_split_over_many_cores():
    assert useful_threads(4, 500_000) == (1, 1)
    assert useful_threads(4, 20 * 2**20) == (1, 4)
    assert useful_threads(4, 90 * 2**20) == (4, 4)
    assert useful_threads(2, 400 * 2**20) == (2, 2)


def write(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_reader_finds_siblings_capacity_clock_and_small_cores(tmp_path):
    cpu = "sys/devices/system/cpu/cpu"
    write(
        tmp_path,
        {
            "sys/devices/cpu_atom/cpus": "2-3\n",
            f"{cpu}0/topology/thread_siblings_list": "0-1\n",
            f"{cpu}1/topology/thread_siblings_list": "0-1\n",
            f"{cpu}1/topology/physical_package_id": "0\n",
            f"{cpu}1/cpufreq/cpuinfo_max_freq": "4700000\n",
            f"{cpu}2/cpu_capacity": "612\n",
        },
    )
    board = read_board(tmp_path, {0, 1, 2})
    assert board.cpus == (
        Cpu(0, (0, 0)),
        Cpu(1, (0, 0), 0, 4_700_000),
        Cpu(2, (0, 2), 612, 0, is_efficient=True),
    )


def test_reader_takes_the_tightest_quota_up_the_tree(tmp_path):
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/hearth.service\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
            "sys/fs/cgroup/system.slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/system.slice/hearth.service/cpu.max": "400000 100000\n",
        },
    )
    assert read_board(tmp_path, {0}).quota == 1.5


def test_reader_survives_a_machine_that_tells_nothing(tmp_path):
    assert read_board(tmp_path, {0, 1}) == Board((Cpu(0, (0, 0)), Cpu(1, (0, 1))))
