"""Start manypose from a clone: a camera in the window, or any video, or the sample clip.

python run_demo.py               the sample clip (a window, or files where there is no display)
python run_demo.py clip.mp4      the same with a video of yours
python run_demo.py 0             the first camera
"""

from __future__ import annotations

import sys

from manypose.app.demo import demo
from manypose.app.main import leave

if __name__ == "__main__":
    leave(demo(sys.argv[1:]))
