"""Redis servers of which others take over: a cluster of masters with a replica each, and a master under Sentinels."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from streamrec.demo.embedded import EmbeddedRedis, free_ports, redis_binary
from tests.support.deployment import until

SLOTS = 16_384
COMMON = {
    "bind": "127.0.0.1",
    "save": '""',
    "appendonly": "no",
    "repl-diskless-sync-delay": 0,
    "repl-ping-replica-period": 1,
}


@dataclass(frozen=True)
class Servers:
    """Servers that belong together, by port, and the URL that stands for all of them."""

    url: str
    nodes: Mapping[int, EmbeddedRedis]

    def client(self, port: int) -> redis.Redis:
        """Of one of them alone."""
        return redis.Redis(port=port, decode_responses=True, socket_timeout=5)

    def asked(self, port: int, *command: str | int) -> object:
        """What one of them answers."""
        with closing(self.client(port)) as client:
            return client.execute_command(*command)

    def ports(self, role: str) -> list[int]:
        """Those that run and are masters, or replicas whose master is there and whose copy is whole."""
        found = []
        for port, node in self.nodes.items():
            if node.pid is not None:
                with closing(self.client(port)) as client:
                    said = client.info("replication")
                if said["role"] == role == "master" or (said["role"] == role and said["master_link_status"] == "up"):
                    found.append(port)
        return found

    def master_of(self, key: bytes) -> int:
        """The port of the master that holds a key."""
        (port,) = (port for port in self.ports("master") if self._holds(port, key))
        return port

    def replica_of(self, master: int) -> int:
        """The port of its first replica."""
        with closing(self.client(master)) as client:
            return int(client.info("replication")["slave0"]["port"])

    def replicated(self, master: int) -> bool:
        """Whether a replica has all that its master has."""
        with closing(self.client(master)) as client:
            said = client.info("replication")
        return any(said["master_repl_offset"] == said[f"slave{n}"]["offset"] for n in range(said["connected_slaves"]))

    def _holds(self, port: int, key: bytes) -> bool:
        with closing(self.client(port)) as client:
            try:
                client.exists(key)
            except redis.ResponseError:
                return False
        return True


@contextmanager
def running_cluster(masters: int = 3) -> Iterator[Servers]:
    """A cluster of masters, with one replica each, on free loopback ports, ended with the block."""
    with TemporaryDirectory(prefix="streamrec-", ignore_cleanup_errors=True) as place, ExitStack() as stack:
        ports = free_ports(4 * masters)
        ports, buses = ports[: 2 * masters], ports[2 * masters :]
        nodes = {}
        for port, bus in zip(ports, buses, strict=True):
            options = {
                **COMMON,
                "cluster-enabled": "yes",
                "cluster-port": bus,
                "cluster-node-timeout": 1_000,
                "cluster-replica-validity-factor": 0,
                "cluster-config-file": f"nodes-{port}.conf",
            }
            nodes[port] = stack.enter_context(_running(place, port, options))
        servers = Servers(f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}", nodes)
        for epoch, port in enumerate(ports, 1):
            servers.asked(port, "CLUSTER", "SET-CONFIG-EPOCH", epoch)
        bounds = [SLOTS * number // masters for number in range(masters + 1)]
        for number, port in enumerate(ports[:masters]):
            servers.asked(port, "CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
        for port, bus in zip(ports[1:], buses[1:], strict=True):
            servers.asked(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, bus)
        names = [str(servers.asked(port, "CLUSTER", "MYID")) for port in ports]
        until(lambda: all(_knows(servers, port, names) for port in ports))
        for port, name in zip(ports[masters:], names, strict=False):
            servers.asked(port, "CLUSTER", "REPLICATE", name)
        until(lambda: len(servers.ports("slave")) == masters and all(_covers(servers, port) for port in ports))
        yield servers


@contextmanager
def running_sentinels(service: str = "shop") -> Iterator[Servers]:
    """A master, a replica and three Sentinels on free loopback ports, ended with the block."""
    with TemporaryDirectory(prefix="streamrec-", ignore_cleanup_errors=True) as place, ExitStack() as stack:
        master, replica, *sentinels = free_ports(5)
        nodes = {master: stack.enter_context(_running(place, master, COMMON))}
        following = {**COMMON, "replicaof": f"127.0.0.1 {master}"}
        nodes[replica] = stack.enter_context(_running(place, replica, following))
        for port in sentinels:
            watching = {
                "bind": "127.0.0.1",
                "sentinel monitor": f"{service} 127.0.0.1 {master} 2",
                "sentinel down-after-milliseconds": f"{service} 1000",
                "sentinel failover-timeout": f"{service} 3000",
            }
            stack.enter_context(_running(place, port, watching, "--sentinel"))
        url = f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in sentinels)}/{service}/0"
        servers = Servers(url, nodes)
        until(lambda: servers.ports("slave") == [replica])
        until(lambda: all(_watches(servers, port, service) for port in sentinels))
        yield servers


@contextmanager
def paused(server: EmbeddedRedis) -> Iterator[None]:
    """Hangs, as a machine does whose disk is stuck."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if server.pid is not None:
            os.kill(server.pid, signal.SIGCONT)


@contextmanager
def _running(place: str, port: int, options: Mapping[str, object], *more: str) -> Iterator[EmbeddedRedis]:
    home = Path(place, str(port))
    home.mkdir()
    config = home / "server.conf"
    lines = {"port": port, "dir": home, **options}
    config.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    server = EmbeddedRedis([redis_binary(), str(config), *more], port, home / "redis.log", durable=False)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _knows(servers: Servers, port: int, names: list[str]) -> bool:
    known = str(servers.asked(port, "CLUSTER", "NODES"))
    return all(name in known for name in names) and "handshake" not in known


def _covers(servers: Servers, port: int) -> bool:
    said = str(servers.asked(port, "CLUSTER", "INFO"))
    return "cluster_state:ok" in said and "cluster_slots_ok:16384" in said


def _watches(servers: Servers, port: int, service: str) -> bool:
    with closing(servers.client(port)) as client:
        said = client.sentinel_masters()[service]
    return said["num-slaves"] == 1 and said["num-other-sentinels"] == 2 and not said["is_sdown"]
