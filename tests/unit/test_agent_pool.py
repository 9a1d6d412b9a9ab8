"""The pool's promises, with agents that are made up."""

from __future__ import annotations

import errno
import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from support.waiting import wait_for

from interceptor import agent_pool
from interceptor.agent_pool import IDLE_S, AgentPool, PinnedAgent
from interceptor.container import IdRange
from interceptor.errors import AgentError, NotificationGone
from interceptor.limits import Limits
from interceptor.native import agentlink
from interceptor.native.agentlink import Reply, Request
from interceptor.wire import Anchor

if TYPE_CHECKING:
    from interceptor.ports import Namespace

IDS = IdRange(100_000, 65_536)
DONE = Reply(0, agentlink.DONE, 7)


@dataclass(eq=False)
class FakeLink:
    """Answers what it is told to; a missing answer is a slow action."""

    number: int
    answers: queue.SimpleQueue[Reply | BaseException] = field(default_factory=queue.SimpleQueue)
    asked: list[Request] = field(default_factory=list)
    killed: bool = False
    immortal: bool = False
    hung_up: bool = False
    at_home: bool = False

    @property
    def pid(self) -> int:
        return self.number

    def call(self, request: Request) -> Reply | None:
        self.asked.append(request)
        return self.wait(0)

    def wait(self, timeout_ms: int) -> Reply | None:
        try:
            answer = self.answers.get(timeout=timeout_ms / 1000) if timeout_ms else self.answers.get_nowait()
        except queue.Empty:
            return None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def kill(self) -> None:
        self.killed = True

    def reap(self, timeout_ms: int) -> bool:  # noqa: ARG002 - the real one waits
        return (self.killed or self.hung_up) and not self.immortal

    def hang_up(self) -> None:
        self.hung_up = True


class Workshop:
    """Starts made-up agents, and remembers them."""

    def __init__(self) -> None:
        self.links: list[FakeLink] = []
        self.scripts: list[list[Reply | BaseException]] = []

    def start(self) -> FakeLink:
        link = FakeLink(len(self.links))
        self.links.append(link)
        for answer in self.scripts.pop(0) if self.scripts else []:
            link.answers.put(answer)
        return link


@pytest.fixture
def workshop() -> Workshop:
    return Workshop()


def make(workshop: Workshop, **limits: int) -> AgentPool:
    return AgentPool(IDS, Limits(**limits), start=workshop.start)  # type: ignore[arg-type]


def ping() -> Request:
    return Request(agentlink.PING, {}, {})


def test_the_first_agent_starts_with_the_first_call_and_stays(workshop: Workshop) -> None:
    workshop.scripts = [[DONE, DONE]]
    pool = make(workshop)
    assert pool.agents == 0
    assert (pool.call(ping()), pool.call(ping())) == (7, 7)
    assert (len(workshop.links), pool.agents) == (1, 1)
    request = workshop.links[0].asked[0]
    assert (request.root_uid, request.root_gid, request.id_count) == (100_000, 100_000, 65_536)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(errno.ENOENT, agentlink.DONE, 0), FileNotFoundError),
        (Reply(0, agentlink.GONE, 0), NotificationGone),
        (Reply(0, agentlink.MALFORMED, 0), AgentError),
    ],
)
def test_outcomes_become_the_three_kinds_of_errors(
    workshop: Workshop, reply: Reply, error: type[BaseException]
) -> None:
    workshop.scripts = [[reply, DONE]]
    pool = make(workshop)
    with pytest.raises(error):
        pool.call(ping())
    assert pool.call(ping()) == 7
    assert len(workshop.links) == 1


def test_an_agent_that_ended_while_idle_is_replaced_unnoticed(workshop: Workshop) -> None:
    workshop.scripts = [[DONE, BrokenPipeError()], [DONE]]
    pool = make(workshop)
    assert [pool.call(ping()), pool.call(ping())] == [7, 7]
    assert (len(workshop.links), pool.agents) == (2, 1)


def test_an_agent_that_dies_at_work_fails_that_call_only(workshop: Workshop) -> None:
    workshop.scripts = [[AgentError("ended")], [DONE]]
    pool = make(workshop)
    with pytest.raises(AgentError):
        pool.call(ping())
    assert workshop.links[0].killed
    assert pool.call(ping()) == 7


def test_a_slow_call_is_told_once_and_still_answered(workshop: Workshop) -> None:
    pool = make(workshop)
    told: list[int] = []

    def slow() -> None:
        told.append(len(workshop.links))
        workshop.links[0].answers.put(DONE)

    assert pool.call(ping(), slow) == 7
    assert told == [1]


def test_at_the_deadline_the_agent_is_killed_and_set_aside_if_it_will_not_die(workshop: Workshop) -> None:
    workshop.scripts = [[], [DONE]]
    pool = make(workshop, agent_deadline_ms=30)

    def slow() -> None:
        workshop.links[0].immortal = True

    with pytest.raises(AgentError, match="within 30 ms"):
        pool.call(ping(), slow)
    assert (pool.agents, pool.abandoned) == (0, 1)
    assert pool.call(ping()) == 7
    workshop.links[0].immortal = False
    assert pool.abandoned == 0


def test_who_finds_no_agent_free_waits_in_turn(workshop: Workshop) -> None:
    pool = make(workshop, agents=1)
    order: list[str] = []
    threads = []

    def ask(name: str) -> None:
        pool.call(ping())
        order.append(name)

    for number, name in enumerate(("first", "second", "third")):
        thread = threading.Thread(target=ask, args=(name,))
        thread.start()
        threads.append(thread)
        wait_for(lambda want=number: len(pool._waiters) == want and workshop.links, f"{name} in line", within=5)
    for thread in threads:
        workshop.links[0].answers.put(DONE)
        thread.join(5)
    assert order == ["first", "second", "third"]
    assert len(workshop.links) == 1


def test_waiting_for_a_free_agent_has_the_same_deadline(workshop: Workshop) -> None:
    pool = make(workshop, agents=1, agent_deadline_ms=60)
    outcomes: list[str] = []

    def ask() -> None:
        try:
            pool.call(ping())
        except AgentError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(outcomes) == 3
    assert pool.agents <= 1


def test_agents_beyond_one_end_when_they_were_idle_for_long(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("interceptor.agent_pool.time.monotonic", lambda: now[0])
    workshop.scripts = [[], [DONE, DONE]]
    pool = make(workshop)

    def slow() -> None:
        assert pool.call(ping()) == 7  # somebody else, meanwhile
        workshop.links[0].answers.put(DONE)

    assert pool.call(ping(), slow) == 7
    assert pool.agents == 2
    now[0] = IDLE_S + 1
    workshop.links[0].answers.put(DONE)
    assert pool.call(ping()) == 7
    assert pool.agents == 1
    assert [link.killed for link in workshop.links] == [False, True]


def test_a_failed_start_leaves_no_place_taken() -> None:
    def fail() -> FakeLink:
        raise AgentError("no memory")

    pool = AgentPool(IDS, Limits(agents=1), start=fail)  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(AgentError, match="no memory"):
            pool.call(ping())
    assert pool.agents == 0


def test_close_ends_idle_and_busy_agents_and_whoever_waits(workshop: Workshop) -> None:
    pool = make(workshop, agents=1)
    outcomes: list[str] = []

    def ask() -> None:
        try:
            pool.call(ping())
        except AgentError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(pool._waiters) == 1 and workshop.links, "one at work, one waiting", within=5)
    pool.close()
    assert workshop.links[0].killed
    workshop.links[0].answers.put(AgentError("ended"))
    for thread in threads:
        thread.join(5)
    assert sorted(outcomes) == ["ended", "the container is being removed"]
    with pytest.raises(AgentError, match="being removed"):
        pool.call(ping())
    pool.close()


class Subject:
    notifier_fd, notification_id = 50, 99
    root_fd, cwd_fd = 60, 61
    fsuid, fsgid, groups = 100_000, 100_000, (100_005,)
    capabilities = 0b110
    in_nested_user_namespace = True

    def namespace_fd(self, namespace: Namespace) -> int:
        return {"mnt": 70, "uts": 71, "pid": 72, "net": 73, "user": 74}[namespace.value]


PLACE = {agentlink.NOTIFIER: 50, agentlink.MNTNS: 70, agentlink.ROOT: 60, agentlink.USERNS: 74}


@pytest.mark.parametrize(
    ("at", "base"),
    [
        (Anchor(b"/a"), {}),
        (Anchor(b"a"), {agentlink.BASE: 61}),
        (Anchor(b"a", 9), {agentlink.BASE: 9}),
        (Anchor(b"", 9), {agentlink.BASE: 9}),
    ],
)
def test_where_a_path_starts(workshop: Workshop, at: Anchor, base: dict[int, int]) -> None:
    workshop.scripts = [[DONE]]
    assert PinnedAgent(make(workshop), Subject()).mount_id(at, follow=True) == 7
    request = workshop.links[0].asked[0]
    assert (request.fds, request.texts, request.flags) == (PLACE | base, {agentlink.PATH: at.path}, agentlink.FOLLOW)
    assert (request.notification, request.fsuid, request.groups) == (99, 100_000, (100_005,))


def test_proc_brings_its_pid_namespace_and_its_covers(workshop: Workshop) -> None:
    workshop.scripts = [[DONE]]
    like = [b"/proc", b"sys", b"odd\n\\name"]
    PinnedAgent(make(workshop), Subject()).mount("proc", Anchor(b"/p"), source=None, flags=2, options=b"x", like=like)
    request = workshop.links[0].asked[0]
    assert request.fds == PLACE | {agentlink.PIDNS: 72}
    assert request.texts[agentlink.COVERS] == b"/proc\nsys\nodd\\012\\134name\n"
    assert agentlink.SOURCE not in request.texts
    assert (request.flags, request.mount_flags) == (agentlink.LOCK_COVERS, 2)


def test_names_are_set_in_the_uts_namespace_alone(workshop: Workshop) -> None:
    workshop.scripts = [[DONE, DONE]]
    agent = PinnedAgent(make(workshop), Subject())
    agent.set_hostname(b"a")
    agent.set_domainname(b"b")
    assert [request.op for request in workshop.links[0].asked] == [agentlink.SETHOSTNAME, agentlink.SETDOMAINNAME]
    assert workshop.links[0].asked[0].fds == {agentlink.UTSNS: 71, agentlink.NOTIFIER: 50}


@pytest.mark.parametrize(
    ("op", "made", "unless"),
    [
        (agentlink.MOUNT, None, 0),
        (agentlink.MOUNT, 77, 77),
        (agentlink.OVERLAY, 77, 77),
        (agentlink.MAKE_NODE, None, 0),
        (agentlink.DETACH, None, 0),
        (agentlink.SETHOSTNAME, None, 0),
        (agentlink.MOUNT_ID, None, 0),
    ],
)
def test_a_request_whose_agent_was_killed_is_made_again(op: int, made: int | None, unless: int) -> None:
    request = Request(op, {}, {})
    agent_pool._make_again(request, made)
    assert request.unless_mount == unless


@pytest.mark.parametrize(
    ("op", "made"),
    [
        (agentlink.MOUNT, 0),  # it had begun, and did not know what
        (agentlink.MOVE_MOUNT, 77),
        (agentlink.MAKE_NODE, 0),
        (agentlink.SET_XATTR, 0),
        (agentlink.DETACH, 0),
        (agentlink.FSMOUNT, None),  # which notes nothing
        (agentlink.OVERLAY_CREATE, None),
    ],
)
def test_what_nobody_knows_is_interrupted(op: int, made: int | None) -> None:
    with pytest.raises(InterruptedError, match="nobody knows"):
        agent_pool._make_again(Request(op, {}, {}), made)
