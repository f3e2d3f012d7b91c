"""The process that runs a verifier for a `VerifierPool`. It never imports torch or Lightning.

It talks to the pool over one socket. From the pool come pickles: first the pickled verifier and the time
limit per item, then chunks: the name of a method of `Judge` and the pairs to call it with. Back go lines of
JSON: first null when the verifier is ready, or a sentence when it cannot be loaded; then the fields of a
`Verification` for each pair, in order, as soon as it is judged.
"""

import faulthandler
import json
import os
import pickle
import signal
import socket
from typing import BinaryIO


def main(descriptor: int) -> None:
    """Serves a pool until it closes the connection or dies.

    Args:
        descriptor: File descriptor of the socket to the pool.
    """
    # What the verifier starts must not keep the connection open after this process has died.
    os.set_inheritable(descriptor, False)
    # A cluster sends these to every process of a job; it is the trainer who decides what they mean.
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as requests:
        try:
            _serve(connection, requests)
        except (EOFError, ConnectionError):
            return  # the pool is gone, and nobody is left to be told


def _serve(connection: socket.socket, requests: BinaryIO) -> None:
    def report(message: object) -> None:
        connection.sendall(json.dumps(message).encode() + b"\n")

    pickled_verifier, timeout_seconds = pickle.load(requests)
    try:
        from laser_lightning.verifiers.judge import Judge

        judge = Judge(pickle.loads(pickled_verifier))
    except BaseException as error:
        report(f"{type(error).__name__}: {error}")
        return
    report(None)
    with open(os.devnull, "w") as nowhere:
        while True:
            method, pairs = pickle.load(requests)
            # The pool kills this process when an item takes too long. Should the pool be gone by then, this
            # ends it, even inside C code that never lets another Python thread run.
            faulthandler.dump_traceback_later((len(pairs) + 1) * timeout_seconds, exit=True, file=nowhere)
            for pair in pairs:
                verification = getattr(judge, method)(*pair)
                report([*verification[:3], dict(verification.rewards), verification.policy_reward])
            faulthandler.cancel_dump_traceback_later()
