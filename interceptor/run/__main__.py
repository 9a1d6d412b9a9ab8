"""``python -m interceptor.run NAME``: removes an ended container's things, for the shell that waited for it."""

import sys

from interceptor.run.runner import finish

finish(sys.argv[1])
