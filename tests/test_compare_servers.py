"""The servers that measurements start."""

import contextlib
import os
import signal
import subprocess
import sys

from contract.code import ROOT
from tests.serving import listens, wait_until

PROGRAM = """
import sys, time
from compare.servers import started
with started("killed", [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"], "/") as server:
    print(server.process.pid, server.port, flush=True)
    time.sleep(600)
"""


def test_a_server_ends_with_the_measurement_that_started_it_even_if_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True) as measurement:
        assert measurement.stdout is not None
        server, port = map(int, measurement.stdout.readline().split())
        try:
            assert listens(port)
            measurement.kill()
            wait_until(lambda: not listens(port), 20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGKILL)
