"""A container's network without an engine: a veth pair to a bridge, an address, and masquerading to the outside.

What is the host's is made with the first container and removed with the last: the bridge, the nftables table, the
forwarding switch. Who has which address stands in $run/network.json, changed under a lock, so that containers may start
and end at once; leases of containers that are gone are dropped by whoever comes next. The pair itself needs no removal:
it goes with the container's network namespace.

pyroute2 and its event loop are imported here and nowhere else; this module only when a network is asked for.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
import signal
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute, NetNS
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.nftables.expressions import genex, ipv4addr, masq
from pyroute2.nftables.main import NFTables

from interceptor.client import run_directory
from interceptor.errors import InterceptorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

BRIDGE = "interceptor0"
TABLE = "interceptor"
POOL = ipaddress.IPv4Network("10.213.0.0/16")
"""Subnets of 24 bits come from here: the first that no route of the host's overlaps with."""
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")

_META_OIFNAME, _CMP_NEQ = 7, 1
"""linux/netfilter/nf_tables.h: NFT_META_OIFNAME, NFT_CMP_NEQ."""
_SOURCE_NAT_PRIORITY = 100
"""linux/netfilter_ipv4.h: NF_IP_PRI_NAT_SRC."""
_NF_DROP, _NF_INET_FORWARD = 0, 2
"""linux/netfilter.h."""
_IFNAMSIZ = 16


class NetworkError(InterceptorError):
    """The network could not be set up."""


@dataclass(slots=True)
class State:
    """$run/network.json"""

    subnet: str | None = None
    """None while there is no bridge."""
    leases: dict[str, str] = field(default_factory=dict)
    """Container name → address."""
    forwarding_before: str | None = None
    """What ip_forward was, where we changed it."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a container has got."""

    address: ipaddress.IPv4Address
    gateway: ipaddress.IPv4Address
    prefix: int


# ---- decisions ----


def choose_subnet(routes: list[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first subnet of the pool that overlaps with no route; default routes do not count."""
    taken = [route for route in routes if route.prefixlen]
    for subnet in POOL.subnets(new_prefix=24):
        if not any(subnet.overlaps(route) for route in taken):
            return subnet
    raise NetworkError(f"the host's routes leave no room in {POOL} for a bridge; use --net none")


def lease(state: State, name: str) -> Lease:
    """An address for `name` in the state's subnet; noted there."""
    subnet = ipaddress.IPv4Network(str(state.subnet))
    gateway, *hosts = subnet.hosts()
    address = next((host for host in hosts if str(host) not in state.leases.values()), None)
    if address is None:
        raise NetworkError(f"all {len(hosts)} addresses of {subnet} are taken; use --net none, or end some containers")
    state.leases[name] = str(address)
    return Lease(address, gateway, subnet.prefixlen)


# ---- what is asked of the host ----


def attach(name: str, pid: int, exists: Callable[[str], bool], warn: Callable[[str], None]) -> Lease:
    """Connects the network namespace of process `pid`; `exists` says whether a container is still there, `warn` is told
    what works only in part.
    """
    with _transaction() as state, _route_socket() as route:
        _drop_stale(state, exists)
        try:
            if state.subnet is None:
                _make_bridge(state, route)
                _masquerade(state, warn)
            given = lease(state, name)
            _connect(route, pid, given)
        except BaseException:
            _release(state, route, name)
            raise
        return given


def detach(name: str) -> None:
    """Gives the address back; with the last one goes all that we made. Idempotent."""
    if not _path().exists():
        return
    with _transaction() as state:
        if name in state.leases or not state.leases:
            with _route_socket() as route:
                _release(state, route, name)




def _drop_stale(state: State, exists: Callable[[str], bool]) -> None:
    state.leases = {name: address for name, address in state.leases.items() if exists(name)}


def _make_bridge(state: State, route: Any) -> None:
    _remove_bridge(route)  # of a run before a crash
    subnet = choose_subnet([network for message in route.get_routes(family=2) if (network := _destination(message))])
    route.link("add", ifname=BRIDGE, kind="bridge")
    state.subnet = str(subnet)
    bridge = socket.if_nametoindex(BRIDGE)
    route.addr("add", index=bridge, address=str(next(subnet.hosts())), prefixlen=subnet.prefixlen)
    route.link("set", index=bridge, state="up")


def _remove_bridge(route: Any) -> None:
    try:
        bridge = socket.if_nametoindex(BRIDGE)
    except OSError:
        return
    route.link("del", index=bridge)


def _destination(message: Any) -> ipaddress.IPv4Network | None:
    destination = message.get_attr("RTA_DST")
    return ipaddress.IPv4Network(f"{destination}/{message['dst_len']}", strict=False) if destination else None


def _connect(route: Any, pid: int, given: Lease) -> None:
    name = f"icpt{secrets.token_hex(4)}"[: _IFNAMSIZ - 1]
    route.link("add", ifname=name, kind="veth", peer={"ifname": "eth0", "net_ns_pid": pid})
    route.link("set", index=socket.if_nametoindex(name), master=socket.if_nametoindex(BRIDGE), state="up")
    with _quiet(_open_inside(pid)) as inside:
        index = {link.get_attr("IFLA_IFNAME"): link["index"] for link in inside.get_links()}
        inside.link("set", index=index["lo"], state="up")
        inside.link("set", index=index["eth0"], state="up")
        inside.addr("add", index=index["eth0"], address=str(given.address), prefixlen=given.prefix)
        inside.route("add", dst="default", gateway=str(given.gateway))


def _open_inside(pid: int) -> NetNS:
    """A netlink socket in the process's network namespace. pyroute2 forks for it and ends its child by SIGTERM, which must
    not reach our own handler there: a handler that raises would unwind our frames in the child, and clean up.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        return NetNS(f"/proc/{pid}/ns/net", flags=0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _release(state: State, route: Any, name: str) -> None:
    state.leases.pop(name, None)
    if state.leases:
        return
    _remove_bridge(route)
    _unmasquerade()
    if state.forwarding_before is not None:
        FORWARDING.write_text(state.forwarding_before, encoding="ascii")
    state.subnet = state.forwarding_before = None


# ---- nftables ----


def _masquerade(state: State, warn: Callable[[str], None]) -> None:
    """Lets containers out under the host's address, if this host can."""
    try:
        before = FORWARDING.read_text(encoding="ascii").strip()
        if before != "1":
            FORWARDING.write_text("1", encoding="ascii")
            state.forwarding_before = before
        with _nft_socket() as nft:
            _add_rules(nft, str(state.subnet))
            if _forwarding_is_dropped(nft):
                warn(
                    f"the host's firewall drops forwarded packets by default; containers reach the host and each other "
                    f"only, until you allow more: iptables -I FORWARD -i {BRIDGE} -j ACCEPT; "
                    f"iptables -I FORWARD -o {BRIDGE} -j ACCEPT"
                )
    except (NetlinkError, OSError) as error:
        warn(f"the host cannot masquerade ({error}); containers reach the host and each other only")


def _add_rules(nft: Any, subnet: str) -> None:
    nft.table("add", name=TABLE)
    nft.chain("add", table=TABLE, name="out", hook="postrouting", type="nat", priority=_SOURCE_NAT_PRIORITY)
    bridge = BRIDGE.encode().ljust(_IFNAMSIZ, b"\0")
    leaving = [
        genex("meta", {"key": _META_OIFNAME, "dreg": 1}),
        genex("cmp", {"sreg": 1, "op": _CMP_NEQ, "data": {"attrs": [("NFTA_DATA_VALUE", bridge)]}}),
    ]
    nft.rule("add", table=TABLE, chain="out", expressions=(ipv4addr(src=subnet), leaving, masq()))


def _forwarding_is_dropped(nft: Any) -> bool:
    """Whether a base chain at the forward hook drops what no rule of it accepts (Docker sets iptables so)."""
    for chain in nft.get_chains():
        hook = chain.get_attr("NFTA_CHAIN_HOOK")
        forward = hook and hook.get_attr("NFTA_HOOK_HOOKNUM") == _NF_INET_FORWARD
        if forward and chain.get_attr("NFTA_CHAIN_POLICY") == _NF_DROP:
            return True
    return False


def _unmasquerade() -> None:
    with contextlib.suppress(NetlinkError, OSError), _nft_socket() as nft:
        nft.table("del", name=TABLE)


# ---- sockets and state ----


@contextlib.contextmanager
def _quiet(opened: Any) -> Iterator[Any]:
    """The socket, closed afterwards; a netlink error as ours."""
    try:
        yield opened
    except NetlinkError as error:
        raise NetworkError(f"the kernel refused a network change: {error}") from error
    finally:
        opened.close()


def _route_socket() -> contextlib.AbstractContextManager[Any]:
    return _quiet(IPRoute())


@contextlib.contextmanager
def _nft_socket() -> Iterator[Any]:
    nft = NFTables()
    try:
        yield nft
    finally:
        nft.close()


def _path() -> Path:
    return run_directory() / "network.json"


@contextlib.contextmanager
def _transaction() -> Iterator[State]:
    """The state, alone; written back also when the change fails half-way."""
    directory = run_directory()
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o711)
    with (directory / "network.lock").open("w") as lock:
        os.lockf(lock.fileno(), os.F_LOCK, 0)
        state = _read(_path())
        try:
            yield state
        finally:
            _write(_path(), state)


def _read(path: Path) -> State:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return State(found["subnet"], dict(found["leases"]), found["forwarding_before"])
    except FileNotFoundError:
        return State()
    except (ValueError, KeyError, TypeError) as error:
        raise NetworkError(f"{path} cannot be read ({error}); remove it once all containers have ended") from error


def _write(path: Path, state: State) -> None:
    if state.subnet is None and not state.leases:
        path.unlink(missing_ok=True)
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
    draft.chmod(0o600)
    draft.rename(path)
