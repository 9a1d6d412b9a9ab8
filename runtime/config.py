"""/etc/interceptor/interceptor.yaml and the environment: what the administrator decides for the whole host.

Strict: an unknown key or a wrong type is an error with file and line, and what is allowed.

    runtime: crun            # name in PATH or absolute path of the OCI runtime underneath
    ids:
      first: 1879048192      # first host id that containers may have
      size: 65536            # ids a container, where its policy does not say
      count: 4094            # ranges of 65,536 ids
    data: true               # special data directories for inner engines
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from interceptor.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONFIG = "/etc/interceptor/interceptor.yaml"
UNIT = 65536
"""Ranges are aligned to, and counted in, this many ids."""


@dataclass(frozen=True, slots=True)
class Ids:
    """The host ids that containers are given.

    systemd's list of uid ranges (UIDS-GIDS) leaves 1,879,048,192 (0x7000_0000) … 2,147,352,575 unused: above what
    systemd-nspawn, useradd's subordinate ids and dynamic users take, below Podman's customary 2,147,483,647 and
    below 2³¹, where programs begin to see negative numbers. That is room for 4,094 ranges of 65,536.
    """

    first: int = 0x7000_0000
    count: int = 4094

    @property
    def end(self) -> int:
        return self.first + self.count * UNIT


@dataclass(frozen=True, slots=True)
class HostConfig:
    """The file, as values."""

    runtime: str | None = None
    ids: Ids = field(default_factory=Ids)
    size: int | None = None
    """Ids of a container; None: as its policy says."""
    data: bool = True
    origin: str = "built-in"


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are kept (environment, else the defaults)."""

    run: str
    state: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Places:
        environment = os.environ if environment is None else environment
        return cls(
            environment.get("INTERCEPTOR_RUN") or "/run/interceptor",
            environment.get("INTERCEPTOR_STATE") or "/var/lib/interceptor",
        )

    def container(self, container_id: str) -> str:
        """A container's run directory."""
        return f"{self.run}/containers/{container_id}"


def load(environment: Mapping[str, str] | None = None) -> HostConfig:
    """The file that $INTERCEPTOR_CONFIG names, which must exist; else the default one, which need not."""
    environment = os.environ if environment is None else environment
    named = environment.get("INTERCEPTOR_CONFIG")
    path = Path(named or CONFIG)
    try:
        text = path.read_text()
    except FileNotFoundError:
        if named:
            raise ConfigError(f"$INTERCEPTOR_CONFIG names {named}, which does not exist") from None
        return HostConfig()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return parse(text, str(path))


def parse(text: str, origin: str) -> HostConfig:
    """The configuration in `text`; ConfigError with ``origin:line``."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{origin}:{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: {error}") from error
    if node is None:
        return HostConfig(origin=origin)
    values = _mapping(node, origin, {"runtime": _text, "ids": _ids, "data": _flag})
    ids = dict(values.pop("ids", None) or {})
    size = ids.pop("size", None)
    found = Ids(**ids)
    if found.end > (1 << 32) - 1:
        raise ConfigError(
            f"{origin}: ids: first {found.first} and count {found.count} go beyond the last id, {(1 << 32) - 2}"
        )
    return HostConfig(ids=found, size=size, origin=origin, **values)


def _mapping(node: Any, origin: str, keys: Mapping[str, Callable[[Any, str], Any]]) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise _error(node, origin, f"a mapping is needed here, with the keys {', '.join(keys)}")
    found: dict[str, Any] = {}
    for key, value in node.value:
        name = key.value
        if name not in keys:
            raise _error(key, origin, f"unknown key {name!r}; allowed are {', '.join(keys)}")
        if name in found:
            raise _error(key, origin, f"key {name!r} stands here for the second time")
        found[name] = keys[name](value, origin)
    return found


def _ids(node: Any, origin: str) -> dict[str, Any]:
    return _mapping(node, origin, {"first": _number(65536), "size": _number(1), "count": _number(1)})


def _number(least: int) -> Callable[[Any, str], int]:
    def read(node: Any, origin: str) -> int:
        value = yaml.safe_load(node.value) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 32:
            raise _error(
                node,
                origin,
                f"an integer from {least} to {(1 << 32) - 1} is needed, not {getattr(node, 'value', '…')!r}",
            )
        return value

    return read


def _text(node: Any, origin: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise _error(node, origin, "a name or an absolute path is needed")
    return str(node.value)


def _flag(node: Any, origin: str) -> bool:
    value = yaml.safe_load(node.value) if isinstance(node, yaml.ScalarNode) else None
    if not isinstance(value, bool):
        raise _error(node, origin, "true or false is needed")
    return value


def _error(node: Any, origin: str, what: str) -> ConfigError:
    return ConfigError(f"{origin}:{node.start_mark.line + 1}: {what}")
