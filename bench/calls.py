"""What the calls of each family cost inside a container, with the policies that turn them on.

Both sides are containers of ours with the same namespaces and root filesystem; the policy of the native side leaves every
call to the kernel, so that no filter stands in its way. Measured in turn, compared pair by pair. What the kernel refuses
natively is compared with its nearest relative that it allows, or with the refusal. (mount(2) and its like: bench/mounts.py.)
Usage: ``python bench/calls.py [--quick]`` (root).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path

import _container

PAIRS = (
    # what, policy, kind with us, kind natively
    ("sethostname", "default", "name", "name"),
    ("sysinfo", "default", "sysinfo", "sysinfo"),
    ("sched_getaffinity", "default", "affinity", "affinity"),
    ("syslog: open (native: refused)", "default", "log-open", "log-open"),
    ("adjtimex: read", "default", "clock-read", "clock-read"),
    ("adjtimex: correct (native: read)", "default", "clock-correct", "clock-read"),
    ("swapoff (native: refused)", "default", "swapoff", "swapoff"),
    ("reboot, Ctrl-Alt-Del (native: refused)", "default", "reboot", "reboot"),
    ("quotactl, by the filter (native: refused)", "default", "quota", "quota"),
    ("setpriority, lower (native: the same)", "bench-both", "nice-lower", "nice-same"),
    ("mknod null (native: whiteout)", "default", "null", "whiteout"),
    ("mknod whiteout", "default", "whiteout", "whiteout"),
    ("getxattr user.*, policy xattr", "xattr", "get-user", "get-user"),
    ("setxattr user.*, policy xattr", "xattr", "set-user", "set-user"),
    ("getxattr trusted.* (native: user.*)", "xattr", "get-trusted", "get-user"),
    ("setxattr trusted.* (native: user.*)", "xattr", "set-trusted", "set-user"),
    ("listxattr, policy xattr", "xattr", "list", "list"),
    ("lchown, policy chown", "chown", "chown", "chown"),
    ("a file as cp -a copies it, both on", "bench-both", "copy", "copy"),
)
POLICIES = {
    "bench-native": "description: everything is the kernel's\nselectable: true\ndefault: native\n",
    "bench-both": "description: everything that is optional\nselectable: true\nextends: [xattr, chown]\nlimits: {nice: -10}\n",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls and rounds: does it run, not how fast")
    quick = parser.parse_args().quick
    count, rounds = ("200", 2) if quick else ("5000", 7)
    _container.in_private_namespace()
    with _container.host() as host:
        for name, text in POLICIES.items():
            (host.policies / f"{name}.yaml").write_text(text)
        root = host.program(Path(__file__).with_suffix(".c"))

        def once(kind: str, policy: str) -> float:
            shutil.rmtree(root / "tmp")
            (root / "tmp").mkdir()
            return int(host.run(kind, root, ["/bin/calls", kind, count], {"interceptor.policy": policy})) / 1000

        print(f"intercepted calls: medians of {rounds} rounds of {count} each; native in brackets")
        for what, policy, ours, native in PAIRS:
            pairs = [(once(ours, policy), once(native, "bench-native")) for _ in range(rounds)]
            mine, theirs = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"  {what:42} {mine:7.1f} µs ({theirs:6.1f}) {ratio:6.2f}×")


if __name__ == "__main__":
    main()
