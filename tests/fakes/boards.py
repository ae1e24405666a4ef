"""Trees of the kernel's files as real boards have them, for readers with a root of their own."""

MEMINFO = "MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\nSwapTotal: 2000 kB\nSwapFree: 500 kB\n"
PRESSURE = (
    "some avg10={} avg60={} avg300=0.00 total=1\nfull avg10=1.50 avg60=0.00 avg300=0.00 total=1\n"
)


def write(root, files):
    """Make each file with its text; a text of `-> target` makes a symbolic link."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text[3:])
        else:
            path.write_text(text)
    return root


def any_board(root, memory_stall="0.00", mountinfo=""):
    """What every Linux has."""
    return write(
        root,
        {
            "proc/meminfo": MEMINFO,
            "proc/vmstat": "nr_free_pages 5\npswpin 100\npswpout 200\noom_kill 3\n",
            "proc/pressure/cpu": "some avg10=1.00 avg60=2.00 avg300=0.00 total=9\n",
            "proc/pressure/memory": PRESSURE.format(memory_stall, "0.00"),
            "proc/pressure/io": PRESSURE.format("3.00", "4.00"),
            "proc/self/mountinfo": mountinfo,
        },
    )


def pi(root, mount, throttled="0", celsius="48312", card_type="SD"):
    """A Raspberry Pi 5 that boots from a card, its kernel's page size and all."""
    card = "sys/devices/platform/axi/1000fff000.mmc/mmc_host/mmc0/mmc0:aaaa"
    line = f"25 1 179:2 / {mount} rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw\n"
    any_board(root, mountinfo=line)
    return write(
        root,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "proc/self/smaps": "5555-5556 r--p 00000000 b3:02 1 /bin/x\nKernelPageSize:    16 kB\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": f"{throttled}\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": f"{celsius}\n",
            "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
            "sys/class/thermal/thermal_zone0/trip_point_0_temp": "110000\n",
            "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
            "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "0\n",
            "sys/class/watchdog/watchdog0/state": "inactive\n",
            f"{card}/type": f"{card_type}\n",
            f"{card}/block/mmcblk0/stat": "1 2 3 4 5 6 2048 8 0 10 11\n",
            f"{card}/block/mmcblk0/device": "-> ../..",
            f"{card}/block/mmcblk0/mmcblk0p2/partition": "2\n",
            "sys/dev/block/179:2": f"-> ../../../{card}/block/mmcblk0/mmcblk0p2",
            "sys/fs/ext4/mmcblk0p2/errors_count": "0\n",
        },
    )


def emmc(root, mount, life="0x02 0x09", pre_eol="0x01", options="rw"):
    """A board with eMMC; `options` are those of the super block."""
    chip = "sys/devices/platform/3460000.sdhci/mmc_host/mmc0/mmc0:0001"
    line = f"25 1 179:1 / {mount} rw,relatime - ext4 /dev/mmcblk0p1 {options}\n"
    any_board(root, mountinfo=line)
    return write(
        root,
        {
            f"{chip}/type": "MMC\n",
            f"{chip}/life_time": f"{life}\n",
            f"{chip}/pre_eol_info": f"{pre_eol}\n",
            f"{chip}/block/mmcblk0/stat": "0 0 0 0 0 0 10 0 0 0 0\n",
            f"{chip}/block/mmcblk0/device": "-> ../..",
            f"{chip}/block/mmcblk0/mmcblk0p1/partition": "1\n",
            "sys/dev/block/179:1": f"-> ../../../{chip}/block/mmcblk0/mmcblk0p1",
            "sys/fs/ext4/mmcblk0p1/errors_count": "7\n",
        },
    )


def nvme(root, mount):
    """A board with everything on an NVMe disk."""
    disk = "sys/devices/pci0000:00/0000:00:1d.0/nvme/nvme0/nvme0n1"
    any_board(root, mountinfo=f"25 1 259:2 / {mount} rw - ext4 /dev/nvme0n1p2 rw\n")
    return write(
        root,
        {
            f"{disk}/nvme0n1p2/partition": "2\n",
            "sys/dev/block/259:2": f"-> ../../../{disk}/nvme0n1p2",
        },
    )


def jetson(root):
    """A Jetson Orin: rails of an INA3221, zones with passive trips, over-current counts."""
    any_board(root)
    rails = {"1": ("VDD_IN", 5040, 1520), "2": ("VDD_CPU_GPU_CV", 5040, 480)}
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "sys/class/hwmon/hwmon0/name": "ina3221\n",
        "sys/class/hwmon/hwmon0/in7_label": "sum of shunt voltages\n",
        "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
        "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
        "sys/class/hwmon/hwmon2/oc3_event_cnt": "4\n",
    }
    for number, (label, millivolts, milliamperes) in rails.items():
        files[f"sys/class/hwmon/hwmon0/in{number}_label"] = f"{label}\n"
        files[f"sys/class/hwmon/hwmon0/in{number}_input"] = f"{millivolts}\n"
        files[f"sys/class/hwmon/hwmon0/curr{number}_input"] = f"{milliamperes}\n"
    zones = {0: ("cpu-thermal", 51_000), 1: ("gpu-thermal", 98_500), 2: ("cv0-thermal", -256_000)}
    for number, (kind, temperature) in zones.items():
        zone = f"sys/class/thermal/thermal_zone{number}"
        files[f"{zone}/type"] = f"{kind}\n"
        files[f"{zone}/temp"] = f"{temperature}\n"
        files[f"{zone}/trip_point_0_type"] = "passive\n"
        files[f"{zone}/trip_point_0_temp"] = "99000\n"
    return write(root, files)


def pc(root, energy="1000000"):
    """A mini PC: RAPL, two zones of one type, a core that was throttled."""
    any_board(root)
    package = "sys/class/powercap/intel-rapl:0"
    return write(
        root,
        {
            f"{package}/name": "package-0\n",
            f"{package}/energy_uj": f"{energy}\n",
            f"{package}/max_energy_range_uj": "262143328850\n",
            "sys/class/powercap/intel-rapl:0:0/name": "core\n",
            "sys/class/powercap/intel-rapl:0:0/energy_uj": "1\n",
            "sys/class/thermal/thermal_zone0/type": "acpitz\n",
            "sys/class/thermal/thermal_zone0/temp": "27800\n",
            "sys/class/thermal/thermal_zone1/type": "acpitz\n",
            "sys/class/thermal/thermal_zone1/temp": "29800\n",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "0\n",
            "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "12\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
            "sys/devices/virtual/dmi/id/product_name": "NUC\n",
        },
    )
