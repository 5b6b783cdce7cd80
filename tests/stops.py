"""A program whose every call that writes is seen before it happens, and can be its last.

Linux's ptrace, behind a filter that lets all other calls pass at full speed: calls are counted
across all threads and processes of the program, by the path that they write. (`strace --inject`
counts them for each thread by itself, and cannot tell them by a name that is new in each run.)
"""

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64"
WHY_NOT = "calls are stopped by ptrace, with the registers of Linux on x86-64"

OPEN, OPENAT, IOCTL = 2, 257, 16
_FD, _PATH, _AT = "a descriptor", "a path", "a path in a folder"
_CALLS: dict[int, tuple[str, str, int]] = {
    1: ("write", _FD, 0),
    18: ("pwrite64", _FD, 0),
    20: ("writev", _FD, 0),
    296: ("pwritev", _FD, 0),
    328: ("pwritev2", _FD, 0),
    40: ("sendfile", _FD, 0),
    326: ("copy_file_range", _FD, 2),
    IOCTL: ("ioctl", _FD, 0),
    73: ("flock", _FD, 0),
    74: ("fsync", _FD, 0),
    75: ("fdatasync", _FD, 0),
    77: ("ftruncate", _FD, 0),
    285: ("fallocate", _FD, 0),
    91: ("fchmod", _FD, 0),
    76: ("truncate", _PATH, 0),
    OPEN: ("open", _PATH, 0),
    85: ("open", _PATH, 0),
    82: ("rename", _PATH, 1),
    83: ("mkdir", _PATH, 0),
    84: ("rmdir", _PATH, 0),
    86: ("link", _PATH, 1),
    87: ("unlink", _PATH, 0),
    88: ("symlink", _PATH, 1),
    90: ("chmod", _PATH, 0),
    OPENAT: ("open", _AT, 0),
    258: ("mkdir", _AT, 0),
    263: ("unlink", _AT, 0),
    264: ("rename", _AT, 2),
    316: ("rename", _AT, 2),
    265: ("link", _AT, 2),
    266: ("symlink", _AT, 1),
    268: ("chmod", _AT, 0),
    452: ("chmod", _AT, 0),
    280: ("utimensat", _AT, 0),
}
"""By number: the name, by what it says which file, and in which argument."""
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FICLONE = 0x40049409

_TRACEME, _CONT, _GETREGS, _SETREGS, _SETOPTIONS = 0, 7, 12, 13, 0x4200
_SECCOMP = 7  # the event
# fork, vfork, clone, exec, seccomp; and that all end with this process
_OPTIONS = 2 | 4 | 8 | 16 | 128 | 0x100000
_WALL = 0x40000000
_ARGUMENTS = (14, 13, 12, 7, 9, 8)  # rdi, rsi, rdx, r10, r8, r9 in user_regs_struct
_RESULT, _NUMBER = 10, 15  # rax, orig_rax
_HERE = -100  # AT_FDCWD

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_Registers = ctypes.c_ulonglong * 27


@dataclass(frozen=True)
class Call:
    """A call that would write, not made yet."""

    name: str
    path: str
    """What it writes: of two names, the new one."""
    process: int
    thread: int
    makes: bool
    """Would there be a new file?"""
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """What a child process does."""

    main: Callable[[], object]
    folder: Path
    environment: Mapping[str, str]


def run(program: Program, output: int) -> int:
    """Run a program to its end; its exit status, or the signal that ended it as a negative one."""
    child = _start(program, output, lambda: None)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_stopped(
    program: Program,
    output: int,
    inside: Path,
    on_call: Callable[[int, Call], int],
    patience: float,
) -> int:
    """The same, `on_call` being asked before every call that writes inside a folder.

    It is given the program's process and the call, may do anything to the former, and returns the
    error that the call is to fail with; 0 lets it be.

    Raises:
        TimeoutError: it did not end in `patience` seconds, and was killed.
    """
    child = _start(program, output, _be_traced)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        os.killpg(child, signal.SIGKILL)

    timer = threading.Timer(patience, give_up)
    timer.start()
    try:
        status = _trace(child, f"{inside}/", on_call)
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError(f"it does not end in {patience:.0f} s")
    return status


def _start(program: Program, output: int, prepare: Callable[[], None]) -> int:
    """A process of its own session, without an end of its own: what it is forked from has one."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        child = os.fork()
    if child == 0:
        _become(program, output, prepare)
    return child


def _become(program: Program, output: int, prepare: Callable[[], None]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        if os.isatty(1):
            import fcntl
            import termios

            fcntl.ioctl(1, termios.TIOCSCTTY, 0)
        os.closerange(3, 1024)
        sys.stdout = open(1, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="replace", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        tempfile.tempdir = None
        warnings.resetwarnings()
        warnings.simplefilter("ignore")
        os.chdir(program.folder)
        os.environ.clear()
        os.environ.update(program.environment)
        prepare()
        program.main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        with suppress(OSError):
            traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _be_traced() -> None:
    _libc.ptrace(_TRACEME, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)
    _stop_at_writes()


def _stop_at_writes() -> None:
    """Have the kernel stop this process, and all that come of it, before calls that may write."""
    load, equal, any_of, give = 0x20, 0x15, 0x45, 0x06
    trace, allow = 0x7FF00000, 0x7FFF0000
    code: list[tuple[int, int, int, int]] = [(load, 0, 0, 0)]
    for number in _CALLS:
        first = 16 + 8 * {OPEN: 1, OPENAT: 2, IOCTL: 1}.get(number, 0)
        if number in (OPEN, OPENAT, IOCTL):
            test = (equal, 0, 1, _FICLONE) if number == IOCTL else (any_of, 0, 1, _TO_WRITE)
            code += [(equal, 0, 4, number), (load, 0, 0, first), test]
            code += [(give, 0, 0, trace), (give, 0, 0, allow)]
        else:
            code += [(equal, 0, 1, number), (give, 0, 0, trace)]
    code.append((give, 0, 0, allow))
    packed = b"".join(struct.pack("HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    filters = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    program = ctypes.create_string_buffer(filters, len(filters))
    no_new_privileges, set_seccomp, by_filter = 38, 22, 2
    if _libc.prctl(no_new_privileges, 1, 0, 0, 0) or _libc.prctl(set_seccomp, by_filter, program):
        raise OSError(ctypes.get_errno(), "seccomp")


def _trace(child: int, inside: str, on_call: Callable[[int, Call], int]) -> int:
    result = 0
    known = False
    while True:
        try:
            thread, status = os.waitpid(-1, _WALL)
        except ChildProcessError:
            return result
        if not os.WIFSTOPPED(status):
            if thread == child:
                result = os.waitstatus_to_exitcode(status)
            continue
        sent, event = os.WSTOPSIG(status), status >> 16
        if not known:
            _libc.ptrace(_SETOPTIONS, child, None, _OPTIONS)
            known = True
        if event == _SECCOMP:
            _stopped(child, thread, inside, on_call)
        ours = event or sent in (signal.SIGSTOP, signal.SIGTRAP)
        _libc.ptrace(_CONT, thread, None, 0 if ours else sent)


def _stopped(child: int, thread: int, inside: str, on_call: Callable[[int, Call], int]) -> None:
    registers = _Registers()
    if _libc.ptrace(_GETREGS, thread, None, ctypes.byref(registers)):
        return  # it was killed
    try:
        call = _call(thread, registers)
    except OSError:
        return
    if not call.path.startswith(inside):
        return
    if failed := on_call(child, call):
        registers[_NUMBER], registers[_RESULT] = 2**64 - 1, 2**64 - failed
        _libc.ptrace(_SETREGS, thread, None, ctypes.byref(registers))


def _call(thread: int, registers: "ctypes.Array[ctypes.c_ulonglong]") -> Call:
    number = registers[_NUMBER]
    name, kind, position = _CALLS[number]
    arguments = [registers[place] for place in _ARGUMENTS]
    folder, makes = "", name in ("mkdir", "link", "symlink")
    if kind == _FD:
        path = os.readlink(f"/proc/{thread}/fd/{_signed(arguments[position])}")
    else:
        at = _signed(arguments[position]) if kind == _AT else _HERE
        path = _text(thread, arguments[position + (kind == _AT)])
        if not path.startswith("/"):
            folder = os.readlink(f"/proc/{thread}/{'cwd' if at == _HERE else f'fd/{at}'}")
        path = os.path.normpath(os.path.join(folder, path))
        makes = makes or (name == "open" and not os.path.lexists(path))
    with open(f"/proc/{thread}/status") as status:
        process = next(int(line.split()[1]) for line in status if line.startswith("Tgid"))
    return Call(name, path, process, thread, makes, tuple(arguments))


def _signed(value: int) -> int:
    return ctypes.c_int(value & 0xFFFFFFFF).value


def _text(thread: int, address: int) -> str:
    memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
    try:
        return os.fsdecode(os.pread(memory, 4096, address).partition(b"\0")[0])
    finally:
        os.close(memory)


def is_write(call: Call) -> bool:
    """Does it put bytes into a file, of which half can be there?"""
    return call.name in ("write", "pwrite64") and call.arguments[2] > 1


def written_by(call: Call, part: float) -> tuple[int, bytes]:
    """Where in its file a write begins, and the first `part` of what it writes."""
    descriptor, address, length, offset = call.arguments[:4]
    with open(f"/proc/{call.thread}/mem", "rb", buffering=0) as memory:
        written = os.pread(memory.fileno(), int(length * part), address)
    if call.name == "write":
        with open(f"/proc/{call.thread}/fdinfo/{descriptor}") as told:
            position, flags = (int(told.readline().split()[1], base) for base in (10, 8))
        offset = os.stat(call.path).st_size if flags & os.O_APPEND else position
    return offset, written


def tear(call: Call) -> None:
    """Let half of a write reach its file, as when the power fails in the middle of it."""
    offset, half = written_by(call, 0.5)
    target = os.open(call.path, os.O_WRONLY)
    os.pwrite(target, half, offset)
    os.close(target)


_NEEDS_ROOM = {"write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile"}
_NEEDS_ROOM |= {"copy_file_range", "ioctl", "fallocate", "fsync", "fdatasync"}


def refusal(number: int, call: Call) -> int:
    """The error that a disk which is full, or broken, has for a call; 0 if it has none."""
    if call.name == "flock":
        return 0
    if number == errno.ENOSPC:
        return number if call.makes or call.name in _NEEDS_ROOM else 0
    return number
