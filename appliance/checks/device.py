"""What is wrong with the board: rules over a `DeviceReading`, without IO."""

from collections.abc import Callable, Iterable, Iterator

from appliance.conditions import Condition, Severity
from appliance.device.reading import DeviceReading, Disk, Zone

HOT_CELSIUS = 80.0  # where a Pi begins to slow down; a board that tells its own limit goes by that
NEAR_CELSIUS = 2.0  # so close to that limit counts as hot
MEMORY_STALL, IO_STALL, CPU_STALL = 20.0, 40.0, 80.0  # percent of ten seconds, or of a minute
THRASH_PAGES_S = 500.0  # a card reads about so many small pages per second and nothing else then
WORN_SHARE = 0.8
SLOW_KINDS = {"sd": "an SD card", "usb": "a USB disk", "hdd": "a disk with moving parts"}

_COOL = "give it air: take it out of the cupboard, add a fan or a heat sink, and clean the dust"
_SUPPLY = "use the board maker's own power supply and a short, thick cable; unplug USB disks"


def undervoltage(reading: DeviceReading) -> Iterator[Condition]:
    if "undervoltage" in reading.throttling.now:
        text = "the supply voltage is too low just now: the board is slow and may lose data"
        yield Condition("undervoltage", "too little power", text, Severity.ERROR, _SUPPLY)


def undervoltage_past(reading: DeviceReading) -> Iterator[Condition]:
    throttling = reading.throttling
    if "undervoltage" in throttling.since_boot and "undervoltage" not in throttling.now:
        text = "the supply voltage was too low at some time since the last boot"
        yield Condition("undervoltage_past", "power dipped", text, Severity.WARNING, _SUPPLY)


def over_current(reading: DeviceReading) -> Iterator[Condition]:
    if "over_current" in reading.throttling.since_boot:
        text = "the board took more current than allowed and slowed itself since the last boot"
        cure = "choose a lower power mode (nvpmodel), or a supply for the board's full power"
        yield Condition("over_current", "too much current", text, Severity.WARNING, cure)


def throttled(reading: DeviceReading) -> Iterator[Condition]:
    reasons = [each for each in reading.throttling.now if each != "undervoltage"]
    if reasons:
        text = f"the board runs slower than it could just now: {', '.join(reasons)}"
        yield Condition("throttled", "slowed down", text, Severity.WARNING, _COOL)


def throttled_past(reading: DeviceReading) -> Iterator[Condition]:
    now = {*reading.throttling.now, "undervoltage", "over_current"}
    reasons = [each for each in reading.throttling.since_boot if each not in now]
    if reasons:
        text = f"the board was slowed down since the last boot: {', '.join(reasons)}"
        yield Condition("throttled_past", "was slowed down", text, Severity.NOTE, _COOL)


def hot(reading: DeviceReading) -> Iterator[Condition]:
    if is_hot(reading):
        zones = [
            f"{zone.name} {zone.celsius:.0f} °C" for zone in reading.zones if _is_hot_zone(zone)
        ]
        text = f"at {', '.join(zones)} the board slows down"
        yield Condition("hot", "too hot", text, Severity.WARNING, _COOL)


def is_hot(reading: DeviceReading) -> bool:
    """Whether a sensor is where the board slows down."""
    return any(_is_hot_zone(zone) for zone in reading.zones)


def _is_hot_zone(zone: Zone) -> bool:
    limit = HOT_CELSIUS if zone.passive is None else zone.passive - NEAR_CELSIUS
    return zone.celsius >= limit


def worn(reading: DeviceReading) -> Iterator[Condition]:
    for disk in reading.disks:
        used = disk.life_used or 0.0
        if used >= WORN_SHARE or disk.is_worn:
            told = f"{used:.0%} of its life used" if used else "few spare blocks left"
            severity = Severity.ERROR if used > 1 or disk.is_worn else Severity.WARNING
            text = f"the storage {disk.device} has {told}"
            cure = "copy the state folder elsewhere and replace the storage before it fails"
            yield Condition("storage_worn", "storage wears out", text, severity, cure)


def failing(reading: DeviceReading) -> Iterator[Condition]:
    for disk in reading.disks:
        if disk.is_failing:
            text = f"the disk {disk.device} says itself that it is failing (SMART)"
            cure = "copy the state folder elsewhere now, then replace the disk"
            yield Condition("disk_failing", "disk is failing", text, Severity.ERROR, cure)


def remounted_elsewhere(reading: DeviceReading) -> Iterator[Condition]:
    if reading.remounted:
        text = f"the kernel made {', '.join(reading.remounted[:3])} read-only after an error"
        cure = "look at dmesg, check the file system (fsck) and replace the card or its cable"
        yield Condition("system_remounted", "system disk failed", text, Severity.ERROR, cure)


def remounted(reading: DeviceReading) -> Iterator[Condition]:
    for disk in reading.disks:
        if disk.is_read_only:
            text = f"the kernel made {disk.mount} read-only after an error of {_name(disk)}"
            cure = "look at dmesg, check the file system (fsck) and replace the card or its cable"
            yield Condition("disk_remounted", "disk failed", text, Severity.ERROR, cure)


def file_system(reading: DeviceReading) -> Iterator[Condition]:
    for disk in reading.disks:
        if disk.errors:
            text = f"the file system at {disk.mount} has counted {disk.errors} errors"
            cure = "check it with fsck at the next boot, then run `hearth scrub --repair`"
            yield Condition("disk_errors", "file system errors", text, Severity.WARNING, cure)


def clock_unsynced(reading: DeviceReading) -> Iterator[Condition]:
    if not reading.clock.is_synced:
        yield Condition(
            "clock_unsynced",
            "nobody sets the clock",
            "no time server and no hardware clock vouches for the time",
            Severity.NOTE,
            "run systemd-timesyncd or chrony (`timedatectl set-ntp true`), or add an RTC battery",
        )


def memory_pressure(reading: DeviceReading) -> Iterator[Condition]:
    stall = reading.stalls.get("memory")
    if stall is not None and stall.some10 > MEMORY_STALL:
        text = f"programs waited for memory {stall.some10:.0f} % of the last ten seconds"
        cure = "unload a model with `hearth stop`, lower context_length, or use a smaller model"
        yield Condition("memory_pressure", "memory is short", text, Severity.WARNING, cure)


def io_pressure(reading: DeviceReading) -> Iterator[Condition]:
    stall = reading.stalls.get("io")
    if stall is not None and stall.some60 > IO_STALL:
        text = f"programs waited for the disk {stall.some60:.0f} % of the last minute"
        cure = "wait for pulls to end, lower scrub_mib_s, or move the models to a faster disk"
        yield Condition("io_pressure", "the disk is the bottleneck", text, Severity.WARNING, cure)


def cpu_pressure(reading: DeviceReading) -> Iterator[Condition]:
    stall = reading.stalls.get("cpu")
    if stall is not None and stall.some60 > CPU_STALL:
        text = f"programs waited for a core {stall.some60:.0f} % of the last minute"
        cure = "end other programs on this box, or set threads to fewer than its cores"
        yield Condition("cpu_pressure", "too few cores", text, Severity.NOTE, cure)


def swapping(reading: DeviceReading) -> Iterator[Condition]:
    rate = reading.swap.pages_per_s if reading.swap else None
    if rate is not None and rate > THRASH_PAGES_S:
        text = f"memory is swapped at {rate:.0f} pages per second, so everything crawls"
        cure = "unload a model with `hearth stop`, or use a smaller one"
        yield Condition("swap_thrashing", "swapping", text, Severity.WARNING, cure)


def models_on_card(reading: DeviceReading) -> Iterator[Condition]:
    models = reading.disks[0] if reading.disks else None
    if models is not None and models.kind == "sd" and reading.better_disks:
        there = ", ".join(reading.better_disks[:3])
        text = f"models lie on the SD card {models.device}, which they wear out, though there is"
        cure = "mount that disk, copy the models over and name the folder with the setting models"
        title = "models on a card"
        yield Condition("models_on_card", title, f"{text} {there}", Severity.WARNING, cure)


def slow_disk(reading: DeviceReading) -> Iterator[Condition]:
    models = reading.disks[0] if reading.disks else None  # the folder of models comes first
    if models is not None and models.kind == "sd" and reading.better_disks:
        return  # said by models_on_card
    if models is not None and models.kind in SLOW_KINDS:
        text = f"models are on {SLOW_KINDS[models.kind]} ({models.device}) and load slowly"
        cure = "put them on an SSD or eMMC with the setting models"
        yield Condition("models_disk_slow", "slow disk", text, Severity.NOTE, cure)


def state_on_card(reading: DeviceReading) -> Iterator[Condition]:
    state = reading.disks[-1] if reading.disks else None
    if state is not None and state.kind == "sd":
        text = f"the state folder is on the SD card {state.device}, which tells nothing of its wear"
        cure = "keep a second card ready, or put the state on an SSD with the setting state"
        yield Condition("state_on_card", "state on a card", text, Severity.NOTE, cure)


def page_size(reading: DeviceReading) -> Iterator[Condition]:
    if reading.board.page_bytes > 4096:
        kib = reading.board.page_bytes // 1024
        text = f"the kernel uses pages of {kib} KiB, for which some libraries are not built"
        cure = "if an engine does not start: kernel=kernel8.img in config.txt on a Raspberry Pi"
        yield Condition("large_pages", "unusual page size", text, Severity.NOTE, cure)


def governor(reading: DeviceReading) -> Iterator[Condition]:
    if reading.board.governor == "powersave":
        text = "the CPU's governor is powersave, which holds some boards at their lowest clock"
        cure = "echo schedutil | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Condition("governor_powersave", "slow governor", text, Severity.NOTE, cure)


def watchdog(reading: DeviceReading) -> Iterator[Condition]:
    if reading.board.watchdog == "inactive":
        text = "the board has a watchdog that nobody feeds, so a hung kernel stays hung"
        cure = "set RuntimeWatchdogSec=15s in /etc/systemd/system.conf"
        yield Condition("watchdog_inactive", "watchdog unused", text, Severity.NOTE, cure)


def _name(disk: Disk) -> str:
    return disk.device or "its device"


Check = Callable[[DeviceReading], Iterable[Condition]]
DEVICE_CHECKS: tuple[Check, ...] = (
    undervoltage,
    undervoltage_past,
    over_current,
    throttled,
    throttled_past,
    hot,
    worn,
    failing,
    remounted,
    remounted_elsewhere,
    file_system,
    clock_unsynced,
    memory_pressure,
    io_pressure,
    cpu_pressure,
    swapping,
    models_on_card,
    slow_disk,
    state_on_card,
    page_size,
    governor,
    watchdog,
)
