"""Run every benchmark, quickest first: `python tests/bench [--quick]`, which is `make bench`.

Each is also a script of its own with more options: `python tests/bench/bench_idle.py --help`.
Everything together takes about an hour on two cores, the first time five more for the build of
llama.cpp's tools. What misses its libraries says so and is skipped; vLLM, a peer of the paged
engine, takes part once `python tests/bench/vllm_peer.py` has installed it. Results are appended
to tests/bench/results/. Keep the machine quiet meanwhile.
"""

from __future__ import annotations

import bench_access
import bench_discovery
import bench_idle
import bench_install
import bench_latency
import bench_limits
import bench_metrics
import bench_page
import bench_paged_floor
import bench_paged_host
import bench_paged_latency
import bench_paged_online
import bench_paged_throughput
import bench_parse
import bench_service
import bench_single_stream
import bench_switch
import bench_tls
import bench_wear
import bench_wires
import harness


def main() -> None:
    options = harness.arguments("Run every benchmark").parse_args()
    argv = ["--quick"] if options.quick else []
    for benchmark in (
        bench_idle,
        bench_metrics,
        bench_parse,
        bench_wires,
        bench_access,
        bench_paged_host,
        bench_service,
        bench_install,
        bench_latency,
        bench_limits,
        bench_page,
        bench_discovery,
        bench_paged_floor,
        bench_paged_latency,
        bench_paged_online,
        bench_paged_throughput,
        bench_single_stream,
        bench_switch,
        bench_tls,
        bench_wear,
    ):
        benchmark.main(argv)


if __name__ == "__main__":
    main()
