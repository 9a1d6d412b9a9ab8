"""What happened to each intercepted call, kept for whoever asks: `interceptor trace`, metrics, plugins.

`record` is what a session writes, `ring` keeps and hands on, `event` turns a record into documented JSON, `render`
turns that into lines for people. Records stay values until somebody reads them: a call that nobody looks at costs the
hot path one append.
"""

from interceptor.trace.record import How, Record
from interceptor.trace.ring import Follower, Hub, Ring, Selection

__all__ = ["Follower", "How", "Hub", "Record", "Ring", "Selection"]
