"""What a worker gives up before it touches a model: networks, the state folder, core dumps.

A model's file is input from strangers, read by C++. Whoever takes over a worker through it must
find no network, no keys, no database and no way to the service's memory. All of it needs no rights
and is for ever: seccomp(2) for sockets, landlock(7) for files where the kernel has it (Linux 5.13).
"""

import ctypes
import os
import platform
import resource
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2

# (AUDIT_ARCH_*, number of socket(2)) of linux/audit.h and asm/unistd.h
_MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
_IO_URING_SETUP = 425  # on both; its ring opens sockets behind the filter's back
_X32_BIT = 0x40000000  # numbers of x86-64's other calling convention, which nobody here uses
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with EPERM
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JGE|K

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on all machines
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_FILE_RIGHTS = 0b111  # execute, write, read
_READ = 0b1100  # read files, list folders
_ALL_RIGHTS = 0x1FFF  # of the first version
_REFER, _TRUNCATE = 1 << 13, 1 << 14  # since versions 2 and 3
_SCOPES = 0b11  # since version 6: no signals and no abstract sockets out of the domain


def confine(state: Path, models: Path) -> None:
    """Give everything up, as far as this kernel can. Call it in a process with one thread.

    state   the service's folder, of which nothing can be read or written from now on; nor can the
            credentials that systemd gave to the service
    models  may lie in it, and can be read
    Files elsewhere are untouched: the unit of the service manager is responsible for those.
    """
    _use_own_caches(state)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return  # Linux 3.5 has it; without, neither of the others is allowed
    _hide(libc, state, models)
    _cut_networks(libc)


def landlock_version() -> int:
    """The kernel's version of landlock(7); 0 where it is missing or off."""
    return max(0, _syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG))


def _use_own_caches(state: Path) -> None:
    """Have the folders that compilers write to outside of `state`, and there already."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hearth"
    wanted = {"TRITON_CACHE_DIR": base / "triton", "TORCHINDUCTOR_CACHE_DIR": base / "inductor"}
    if state.resolve().is_relative_to(Path(tempfile.gettempdir()).resolve()):
        wanted["TMPDIR"] = base / "tmp"  # new files beside `state` could not be allowed
    with suppress(OSError):
        for name, folder in wanted.items():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if name == "TMPDIR" or name not in os.environ:
                os.environ[name] = str(folder)
    tempfile.tempdir = None  # looked up anew


# -- networks --------------------------------------------------------------------------------


def _cut_networks(libc: ctypes.CDLL) -> None:
    """Refuse every socket but AF_UNIX; those that are open go on."""
    known = _MACHINES.get(platform.machine())
    if known is None:
        return
    code = _filter(*known)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))  # sock_fprog
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(program), 0, 0)


def _filter(arch: int, socket_number: int) -> bytes:
    """Of seccomp_data: nr at 0, arch at 4, low word of the first argument at 16. Each line is
    (code, steps if true, steps if not, k)."""
    lines = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 0, 7, arch),  # 32-bit programs: nobody here runs any
        (_LOAD, 0, 0, 0),
        (_AT_LEAST, 5, 0, _X32_BIT),
        (_EQUAL, 4, 0, _IO_URING_SETUP),
        (_EQUAL, 0, 2, socket_number),
        (_LOAD, 0, 0, 16),
        (_EQUAL, 0, 1, 1),  # AF_UNIX
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


# -- files -----------------------------------------------------------------------------------


def _hide(libc: ctypes.CDLL, state: Path, models: Path) -> None:
    """Allow all that is not below `state`, and reading `models`; landlock knows no exceptions, so
    everything beside the way to `state` is allowed by itself."""
    version = landlock_version()
    if not version:
        return
    rights = _ALL_RIGHTS | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    scopes = _SCOPES if version >= 6 else 0
    attributes = struct.pack("QQQ", rights, 0, scopes)[: 24 if version >= 6 else 8]
    ruleset = _syscall(_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
    if ruleset < 0:
        return
    try:
        hidden = {state.resolve()}
        if credentials := os.environ.get("CREDENTIALS_DIRECTORY"):
            hidden.add(Path(credentials).resolve())
        for path in _beside(hidden):
            _allow(ruleset, path, rights)
        _allow(ruleset, models.resolve(), rights & _READ)
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _beside(hidden: set[Path]) -> Iterator[Path]:
    """Every entry of every folder above the hidden ones that does not lead to one."""
    above = {folder for path in hidden for folder in path.parents}
    for folder in above:
        with suppress(OSError):
            for path in folder.iterdir():
                # of a link only where it leads to counts
                if path not in above | hidden and not path.is_symlink():
                    yield path


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what cannot be opened needs no permission
    try:
        if not path.is_dir():
            rights &= _FILE_RIGHTS | _TRUNCATE
        rule = struct.pack("=Qi", rights, fd)  # landlock_path_beneath_attr, which is packed
        _syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(fd)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return int(libc.syscall(ctypes.c_long(number), *arguments))
