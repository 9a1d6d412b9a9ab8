"""Requests as Python packs them are what the C compiler sees."""

from __future__ import annotations

import pytest
from interceptor.native._native import ffi

from interceptor.native import agentlink
from interceptor.native.agentlink import Request

FULL = Request(
    op=agentlink.OVERLAY,
    fds={agentlink.USERNS: 15, agentlink.MNTNS: 11, agentlink.ROOT: 12},
    texts={agentlink.OPTIONS: b"lowerdir=/a:/b", agentlink.PATH: b"/mnt", agentlink.SOURCE: b""},
    notification=0x1122334455667788,
    flags=agentlink.FOLLOW,
    mount_flags=1 << 25,
    capabilities=(1 << 41) - 1,
    fsuid=100_000,
    fsgid=100_001,
    groups=(7, 8, 9),
    root_uid=100_002,
    root_gid=100_003,
    id_count=65_536,
    deadline_ms=5000,
)


def test_every_field_arrives_where_the_struct_has_it() -> None:
    message, fds = agentlink.pack(FULL, 42)
    size = ffi.sizeof("struct agent_request")
    buffer = ffi.from_buffer(message)
    request = ffi.cast("struct agent_request *", buffer)
    for name in (
        "op",
        "notification",
        "flags",
        "mount_flags",
        "capabilities",
        "fsuid",
        "fsgid",
        "root_uid",
        "root_gid",
        "id_count",
        "deadline_ms",
    ):
        assert getattr(request, name) == getattr(FULL, name), name
    assert (request.cookie, request.data_length) == (42, 0)
    assert list(request.groups[0 : request.group_count]) == [7, 8, 9]
    assert fds == [11, 12, 15]
    assert request.fds == 1 << agentlink.MNTNS | 1 << agentlink.ROOT | 1 << agentlink.USERNS
    assert message[size:] == b"/mnt\0\0lowerdir=/a:/b\0"
    assert request.text_length == len(message) - size


def test_a_host_name_may_hold_a_nul_and_counts_its_bytes() -> None:
    message, _ = agentlink.pack(Request(agentlink.SETHOSTNAME, {}, {agentlink.DATA: b"a\0b"}), 1)
    request = ffi.cast("struct agent_request *", ffi.from_buffer(message))
    assert (request.data_length, message[-4:]) == (3, b"a\0b\0")


def test_descriptors_of_the_tracee_go_behind_the_others() -> None:
    request = Request(agentlink.OVERLAY, {agentlink.ROOT: 12}, {agentlink.PATH: b"/mnt"}, taken={7: 50, 3: 51})
    message, fds = agentlink.pack(request, 1)
    c = ffi.cast("struct agent_request *", ffi.from_buffer(message))
    assert fds == [12, 50, 51]
    assert c.fds == 1 << agentlink.ROOT
    assert c.texts == 1 << agentlink.PATH | 1 << agentlink.TAKEN
    assert message.endswith(b"/mnt\x007 3 \0")


def test_more_groups_than_fit_are_left_out() -> None:
    groups = tuple(range(100))
    message, _ = agentlink.pack(Request(agentlink.PING, {}, {}, groups=groups), 1)
    assert ffi.cast("struct agent_request *", ffi.from_buffer(message)).group_count == agentlink.GROUPS_MAX


def test_a_nul_in_a_path_and_too_much_text_are_refused() -> None:
    with pytest.raises(OSError, match="NUL in text 0"):
        agentlink.pack(Request(agentlink.MOUNT_ID, {}, {agentlink.PATH: b"/a\0b"}), 1)
    with pytest.raises(OSError, match="carries 32768"):
        agentlink.pack(Request(agentlink.MOUNT_ID, {}, {agentlink.PATH: b"a" * agentlink.TEXT_MAX}), 1)
