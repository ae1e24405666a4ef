"""Which variant of a release a box takes, and the reasons that it tells."""

import pytest

from appliance.bundles.release import Release, Requires, Variant
from appliance.bundles.variants import Facts, choose_variant
from appliance.errors import MemoryFitError
from appliance.library.manifest import Digest

ANY = Requires()


def variant(name, requires=ANY, *, rank=0, engine="", size=500):
    return Variant(name, Digest.of(name.encode()), size, requires, engine=engine, rank=rank)


SMALL = variant("q4", Requires(ram_mib=3500, disk_mib=2000), rank=10)
LARGE = variant("q8", Requires(ram_mib=9000, disk_mib=4000), rank=20)
CUDA = variant("fp8", Requires(accelerator="cuda>=8.9", vram_mib=16000), rank=30, engine="paged")
RELEASE = Release("1.0", (SMALL, LARGE, CUDA))

PI = Facts(arch="arm64", ram_mib=3600, disk_mib=20_000)
PC = Facts(arch="amd64", ram_mib=12_000, disk_mib=20_000)
GPU = Facts(
    arch="amd64",
    ram_mib=12_000,
    disk_mib=20_000,
    vram_mib=24_000,
    accelerators={"cuda": (8, 10)},
    engines=frozenset({"llama", "paged"}),
)


@pytest.mark.parametrize(("facts", "expected"), [(PI, SMALL), (PC, LARGE), (GPU, CUDA)])
def test_the_best_that_fits_is_taken(facts, expected):
    assert choose_variant(RELEASE, facts).variant is expected


def test_each_variant_gets_one_reason():
    assert choose_variant(RELEASE, PI).reasons == (
        "q4: chosen, rank 10",
        "q8: needs 9000 MiB of memory, 3600 MiB can be had",
        "fp8: needs cuda>=8.9, this box has none, needs 16000 MiB of GPU memory, 0 MiB can be had,"
        " needs the engine paged, here are llama",
    )


def test_versions_compare_as_numbers():
    older = Facts("amd64", 12_000, 20_000, 24_000, {"cuda": (8, 7)}, frozenset({"paged"}))
    choice = choose_variant(Release("1", (CUDA,)), older)
    assert choice.variant is None
    assert "this box has 8.7" in choice.reasons[0]


def test_the_architecture_rules_out():
    release = Release("1", (variant("arm", Requires(arch="arm64")),))
    assert choose_variant(release, PC).variant is None
    assert choose_variant(release, PI).variant is not None


def test_of_equals_the_smaller_is_taken():
    big = variant("big", Requires(disk_mib=900), rank=5)
    small = variant("small", Requires(disk_mib=800), rank=5)
    assert choose_variant(Release("1", (big, small)), PC).variant is small


def test_a_pinned_variant_is_taken_before_a_better_one():
    choice = choose_variant(RELEASE, PC, pinned="q4")
    assert choice.variant is SMALL
    assert choice.reasons[:2] == ("q4: chosen, pinned", "q8: fits, but q4 is pinned")


def test_a_pinned_variant_must_fit():
    assert choose_variant(RELEASE, PI, pinned="q8").variant is None


def test_a_pinned_variant_that_is_not_there_is_named():
    choice = choose_variant(RELEASE, PC, pinned="q9")
    assert choice.variant is None
    assert choice.reasons[-1] == "q9: pinned, but the release has only q4, q8, fp8"


def test_nothing_fits_is_one_error_with_all_reasons():
    tiny = Facts(arch="arm64", ram_mib=100, disk_mib=20_000)
    with pytest.raises(MemoryFitError, match="q4: needs 3500 MiB of memory, 100 MiB"):
        choose_variant(RELEASE, tiny).require()
