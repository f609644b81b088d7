"""The local workers answer to their own run alone."""

import socket
import ssl

import psutil
import pytest

from hemax_batch.scheduling.dask_cluster import connect_executor
from hemax_batch.scheduling.executors import DaskExecutor
from hemax_batch.settings import RunOptions


@pytest.fixture(scope="module")
def executor():
    made = connect_executor(RunOptions(workers=1, gpus=0))
    assert isinstance(made, DaskExecutor)
    made._client.wait_for_workers(1, timeout=120)
    yield made
    made.close()


def ports():
    """Every TCP port that this process or one of its children listens at."""
    me = psutil.Process()
    found = set()
    for process in (me, *me.children(recursive=True)):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1"
                found.add(connection.laddr.port)
    return found


def test_scheduler_nannies_and_workers_turn_strangers_away(executor):
    from distributed import Client

    assert executor._client.scheduler.address.startswith("tls://")
    addresses = [executor._client.scheduler.address, *executor._client.nthreads()]
    addresses += [nanny.address for nanny in executor._cluster.workers.values()]
    for address in addresses:
        plain = address.replace("tls://", "tcp://")
        with pytest.raises(OSError):
            Client(plain, timeout=2, set_as_default=False)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        host, port = address.removeprefix("tls://").split(":")
        with socket.create_connection((host, int(port)), 5) as raw, pytest.raises(OSError):
            with context.wrap_socket(
                raw
            ) as encrypted:  # TLS 1.3 tells of a missing certificate when it is read
                encrypted.sendall(b"x" * 64)
                if not encrypted.recv(1):
                    raise ConnectionError("closed")


def test_no_http_server_tells_or_does_anything(executor):
    for port in ports():
        for path in (
            "/health",
            "/info/main/workers.html",
            "/api/v1/retire_workers",
            "/metrics",
            "/json/counts.json",
        ):
            with socket.create_connection(("127.0.0.1", port), 5) as plain:
                plain.settimeout(3)
                try:
                    plain.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                    answer = plain.recv(200)
                except OSError:
                    continue
                assert b" 200 " not in answer.split(b"\r\n")[0], (path, answer)


def test_a_scheduler_without_tls_is_warned_of(monkeypatch):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, processes=False, dashboard_address=None, protocol="tcp://"
    ) as cluster:
        executor = connect_executor(RunOptions(scheduler=cluster.scheduler_address))
        assert "--tls" in executor.warning
        executor._client.close()
