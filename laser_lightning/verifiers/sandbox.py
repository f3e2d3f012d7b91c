"""A Python process for code that nobody has read: without network and other processes, its time and memory limited.

It must run on Linux, whose kernel refuses what a filter of system calls (seccomp) names, to root too. The same file is
the program of that process, which imports nothing of this package.
"""

import contextlib
import ctypes
import json
import os
import resource
import secrets
import signal
import struct
import subprocess
import sys
import tempfile
import types
from typing import NamedTuple

_LARGEST_FILE = 16 * 1024 * 1024
_LARGEST_OUTPUT = 1024 * 1024
_OPEN_FILES = 64
_ERRNO_EPERM, _ERRNO_ENOSYS = 1, 38

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # as the kernel's audit names them
# System calls that are refused, by their numbers on these machines: the network, new processes, and other processes.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "setpgid": (109, 154),
    "setsid": (112, 157),
    "memfd_create": (319, 279),
}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CLONE_THREAD = 0x00010000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2


class Outcome(NamedTuple):
    """How a program ended.

    Attributes:
        finished: Whether it ran to its end, without an error and without leaving early.
        output: What it wrote on standard output.
        reason: Why it did not finish, in words; empty if it did.
    """

    finished: bool
    output: str
    reason: str


def run_python(parts: list[str], standard_input: str, seconds: float, memory_megabytes: int) -> Outcome:
    """Runs Python code in a process of its own.

    The parts are run one after the other in one module, named `solution`. Then its unit tests are: functions named
    `test...` that are defined in the last of several parts, and subclasses of `unittest.TestCase`.

    Args:
        parts: The code, in parts. A single one is a program, run as `__main__`.
        standard_input: What the code can read from standard input.
        seconds: Wall-clock limit.
        memory_megabytes: Limit of the address space.

    Raises:
        OSError: If the process cannot be confined here.
    """
    if sys.platform != "linux" or os.uname().machine not in _MACHINES:
        raise OSError("code can be confined on Linux alone, on x86_64 and aarch64")
    token = secrets.token_hex(16)
    request = json.dumps({"parts": parts, "token": token, "memory": memory_megabytes * 2**20, "seconds": seconds})
    with (
        tempfile.TemporaryDirectory() as directory,
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        given.write(standard_input.encode("utf-8", "replace"))
        given.seek(0)
        reading, writing = os.pipe()
        answer, told = os.pipe()
        process = subprocess.Popen(
            # Isolated: no variables of this process, which may hold keys, and no modules of its directory.
            [sys.executable, "-I", __file__, str(reading), str(told)],
            cwd=directory,
            env={"PATH": os.defpath, "HOME": directory, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=given,
            stdout=output,
            stderr=errors,
            pass_fds=[reading, told],
        )
        os.close(reading)
        os.close(told)
        with os.fdopen(writing, "wb") as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(request.encode())
        try:
            process.wait(seconds)
            ending = ""
        except subprocess.TimeoutExpired:
            ending = f"was not done after {seconds:g} s"
        finally:
            process.kill()
            process.wait()
        with os.fdopen(answer, "rb") as pipe:
            said = pipe.read(1000).decode(errors="replace")
        output.seek(0)
        text = output.read(_LARGEST_OUTPUT).decode(errors="replace")
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - 2000))
        if said.startswith("unconfined"):
            raise OSError(f"the kernel does not confine processes here ({said.removeprefix('unconfined ')})")
        if said == token and not ending:
            return Outcome(True, text, "")
        lines = errors.read().decode(errors="replace").strip().splitlines()
        return Outcome(False, text, ending or (lines[-1] if lines else f"ended early ({_code(process.returncode)})"))


def _code(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


# What follows runs in the process itself.


def _confine(seconds: float, memory: int) -> None:
    """Gives up all that the code must not have; nothing gives it back."""
    whole = int(seconds) + 1
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, whole),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    machine = list(_MACHINES).index(os.uname().machine)
    refused = [numbers[machine] for numbers in _REFUSED.values()]
    clone, clone3 = _CLONE[machine], _CLONE3[machine]

    def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    load, equal, above, bits, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000
    program = [
        instruction(load, 4),  # the architecture: calls of another one have other numbers
        instruction(equal, _MACHINES[os.uname().machine], if_true=1),
        instruction(answer, kill),
        instruction(load, 0),  # the number of the call
        instruction(above, 0x40000000, if_false=1),  # the x32 calls
        instruction(answer, kill),
    ]
    for number in (number for number in refused if number is not None):
        program += [instruction(equal, number, if_false=1), instruction(answer, refuse | _ERRNO_EPERM)]
    program += [
        # Threads are made by clone, with a flag; clone3, whose flags a filter cannot read, is said not to exist.
        instruction(equal, clone3, if_false=1),
        instruction(answer, refuse | _ERRNO_ENOSYS),
        instruction(equal, clone, if_false=3),
        instruction(load, 16),  # its flags
        instruction(bits, _CLONE_THREAD, if_true=1),
        instruction(answer, refuse | _ERRNO_EPERM),
        instruction(answer, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    described = Program(len(program), ctypes.addressof(code))
    calls = (
        (_PR_SET_PDEATHSIG, signal.SIGKILL, 0),
        (_PR_SET_NO_NEW_PRIVS, 1, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(described)),
    )
    for option, first, second in calls:
        if libc.prctl(option, first, second, 0, 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _run(parts: list[str]) -> None:
    if len(parts) == 1:
        exec(compile(parts[0], "<program>", "exec"), {"__name__": "__main__"})
        return
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # for tests that import from it, and for dataclasses
    for part in parts[:-1]:
        exec(compile(part, "<program>", "exec"), module.__dict__)
    before = dict(vars(module))
    exec(compile(parts[-1], "<tests>", "exec"), module.__dict__)
    for name, value in list(vars(module).items()):
        if name.startswith("test") and isinstance(value, types.FunctionType) and before.get(name) is not value:
            value()
    if "unittest" in sys.modules:
        import unittest

        cases = unittest.defaultTestLoader.loadTestsFromModule(module)
        if cases.countTestCases() and not unittest.TextTestRunner(stream=sys.stderr).run(cases).wasSuccessful():
            raise AssertionError("a unit test failed")


def _main(reading: int, told: int) -> None:
    with os.fdopen(reading, "rb") as pipe:
        request = json.loads(pipe.read())
    try:
        _confine(request["seconds"], request["memory"])
    except (OSError, ValueError) as error:
        os.write(told, f"unconfined {error}".encode())
        return
    token = request.pop("token")
    try:
        _run(request["parts"])
    except SystemExit as left:
        # Tests that were left early are not passed, whatever the exit code; a program may end so.
        if len(request["parts"]) > 1 or left.code not in (None, 0):
            raise SystemExit("the code left early, by sys.exit") from None
    sys.stdout.flush()
    os.write(told, token.encode())
    os._exit(0)  # threads and exit handlers have no say any more


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
