#!/usr/bin/env bash
# Makes .venv in this checkout, unless it is up to date with pyproject.toml and constraints.txt.
# Needs Python 3.11 to 3.13 with pip; UV_PYTHON selects an interpreter other than the first on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

# An editable install contains the path of its checkout, so a moved checkout needs a new one.
fingerprint=$({ pwd; echo "${UV_PYTHON:-}"; cat pyproject.toml constraints.txt scripts/environment.sh; } | sha256sum)
if [ "$(cat .venv/fingerprint 2>/dev/null)" = "$fingerprint" ]; then
    exit 0
fi

echo "Making the environment .venv: about 6 GB, most of it torch with CUDA." >&2
uv=$(command -v uv || echo .uv/bin/uv)
if [ ! -x "$uv" ]; then
    # Not into the system's packages, which Debian protects from pip.
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .uv --constraint constraints.txt uv
fi
export UV_PYTHON_DOWNLOADS=never # use only installed interpreters: Python is downloaded from elsewhere than packages
rm -rf .venv
# Unlike python3 -m venv, it does not need ensurepip, a separate package on Debian. --seed installs pip: the system's pip
# would install elsewhere.
"$uv" venv --quiet --seed .venv
# Compile bytecode now: otherwise the first start waits for it, or every start if Python may not write there.
"$uv" pip install --quiet --python .venv/bin/python --constraint constraints.txt --build-constraint constraints.txt \
    --compile-bytecode --editable '.[demo,lm,test]'
echo "$fingerprint" >.venv/fingerprint
echo "Made in $SECONDS seconds." >&2
