"""Device nodes, attributes and owners inside a container: what they cost with the policies that turn them on.

Both sides are containers of ours with the same namespaces and root filesystem; the policy of the native side leaves every
call to the kernel, so that no filter stands in its way. Measured in turn, compared pair by pair. What the kernel refuses
natively is compared with its nearest relative that it allows.
Usage: ``python bench/files.py [--quick]`` (root).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path

import _container

PAIRS = (
    # what, policy, kind with us, kind natively
    ("mknod null (native: whiteout)", "default", "null", "whiteout"),
    ("mknod whiteout", "default", "whiteout", "whiteout"),
    ("getxattr user.*, policy xattr", "xattr", "get-user", "get-user"),
    ("setxattr user.*, policy xattr", "xattr", "set-user", "set-user"),
    ("getxattr trusted.* (native: user.*)", "xattr", "get-trusted", "get-user"),
    ("setxattr trusted.* (native: user.*)", "xattr", "set-trusted", "set-user"),
    ("listxattr, policy xattr", "xattr", "list", "list"),
    ("lchown, policy chown", "chown", "chown", "chown"),
    ("a file as tar x makes it, default", "default", "unpack", "unpack"),
    ("a file as tar x makes it, both on", "bench-both", "unpack", "unpack"),
    ("a file as cp -a copies it, both on", "bench-both", "copy", "copy"),
)
POLICIES = {
    "bench-native": "description: everything is the kernel's\nselectable: true\ndefault: native\n",
    "bench-both": "description: everything that is optional\nselectable: true\nextends: [xattr, chown]\n",
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
            return int(host.run(kind, root, ["/bin/files", kind, count], {"interceptor.policy": policy})) / 1000

        print(f"device nodes, attributes, owners: medians of {rounds} rounds of {count} each; native in brackets")
        for what, policy, ours, native in PAIRS:
            pairs = [(once(ours, policy), once(native, "bench-native")) for _ in range(rounds)]
            mine, theirs = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
            ratio = statistics.median(a / b for a, b in pairs)
            print(f"  {what:38} {mine:7.1f} µs ({theirs:6.1f}) {ratio:6.2f}×")


if __name__ == "__main__":
    main()
