#!/usr/bin/env bash
# Makes .venv in this checkout, or leaves it alone while pyproject.toml and constraints.txt are what it was made from.
# Needs Python 3.11 to 3.13 with pip; UV_PYTHON picks another one than the first on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

# An editable install knows its folder by name, so a checkout that was moved needs a new one.
fingerprint=$({ pwd; echo "${UV_PYTHON:-}"; cat pyproject.toml constraints.txt scripts/environment.sh; } | sha256sum)
if [ "$(cat .venv/fingerprint 2>/dev/null)" = "$fingerprint" ]; then
    exit 0
fi

echo "Making the environment .venv: about 6 GB, most of it torch with CUDA." >&2
uv=$(command -v uv || echo .uv/bin/uv)
if [ ! -x "$uv" ]; then
    # Apart from the system's packages: Debian forbids pip to touch those.
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .uv --constraint constraints.txt uv
fi
export UV_PYTHON_DOWNLOADS=never # those of the machine or none: downloads of Python come from another place than packages do
rm -rf .venv
"$uv" venv --quiet .venv # unlike python3 -m venv, without need of ensurepip, which Debian packages apart
# Bytecode now: the first start waits for it otherwise, and every start where Python may not write it.
"$uv" pip install --quiet --python .venv/bin/python --constraint constraints.txt --build-constraint constraints.txt \
    --compile-bytecode --editable '.[demo,lm,test]'
echo "$fingerprint" >.venv/fingerprint
echo "Made in $SECONDS seconds." >&2
