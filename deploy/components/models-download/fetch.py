"""MODEL_URL, a .tar.gz, into MODELS_DIR, unless its SHA-256 is not MODEL_SHA256: then exit code 1.

Runs before the service, in its image, and needs nothing but Python. Nothing is unpacked before all of it
was checked.
"""

import hashlib
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

folder = Path(os.environ["MODELS_DIR"])
expected = os.environ["MODEL_SHA256"]
fetched = folder / ".fetched"
with urllib.request.urlopen(os.environ["MODEL_URL"], timeout=60) as answer, fetched.open("wb") as file:
    while part := answer.read(1 << 20):
        file.write(part)
with fetched.open("rb") as file:
    found = hashlib.file_digest(file, "sha256").hexdigest()
if found == expected:
    with tarfile.open(fetched) as archive:
        archive.extractall(folder, filter="data")  # no links or paths that lead out of the folder
fetched.unlink()
if found != expected:
    sys.exit(f"fetch.py: MODEL_URL: sha256 is {found}, MODEL_SHA256 expects {expected}")
