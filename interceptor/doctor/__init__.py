"""What this host can do for system containers, tried rather than looked up.

A probe is a function in one of this package's modules that yields findings; `examine` runs them all. Features are
probed by using them, never inferred from a version, and nothing stays behind: experiments run in processes and
namespaces of their own, their directories are removed.
"""

from interceptor.doctor.examine import Section, examine
from interceptor.doctor.finding import Finding, Verdict

__all__ = ["Finding", "Section", "Verdict", "examine"]
