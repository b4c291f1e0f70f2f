"""Runs the Python examples of the pages in docs/, each as it stands there: one scenario per page, named after it."""
import os
import pathlib
import re
import subprocess
import sys

import interop

DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs"
NOT_HERE = {
    "tls": "needs a certificate and a listener for TLS",
    "oauth": "needs a broker that knows the keys; pika's scenario oauth_token has one",
    "oauth_2": "the same",
}


def example(code):
    def run():
        done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=60)
        interop.check(done.returncode == 0, done.stderr.strip().splitlines()[-1:])

    return run


for page in sorted(DOCS.glob("*.md")):
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)):
        run = example(code)
        run.__name__ = page.stem.replace("-", "_") + (f"_{number + 1}" if number else "")
        if run.__name__ in NOT_HERE:
            interop.skip(run.__name__, NOT_HERE[run.__name__])
        else:
            interop.scenario(run)

interop.main()
