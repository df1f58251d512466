"""The build hook: says when and with what this version was built."""

import platform
import time

with open("build.txt", "w", encoding="utf-8") as file:
    file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} with Python {platform.python_version()}")
