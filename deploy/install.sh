#!/bin/sh
# Install the broker into a virtual environment of its own: third parties from the locks by hash,
# our two wheels from this tree. The Dockerfile and docs/how-to/deploy.md call it.
#
#   deploy/install.sh /opt/gateway-broker
#
# PYTHON chooses the interpreter (3.11 or newer; default python3). The same tree and interpreter
# give the same files: wheels have a fixed time, bytecode is checked by hash and not by time.
set -eu
prefix=${1:?usage: deploy/install.sh PREFIX}
python=${PYTHON:-python3}
tree=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore SOURCE_DATE_EPOCH=315532800

"$python" -m venv "$work/tools"
pip() { "$work/tools/bin/python" -m pip "$@"; }
pip install --quiet --only-binary :all: --no-deps --require-hashes --requirement "$tree/requirements/build.txt"
pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/wheels" "$tree/clients/python" "$tree"

rm -rf "$prefix"
"$python" -m venv --without-pip "$prefix"
into() { pip --python "$prefix/bin/python" install --quiet --no-deps --no-compile "$@"; }
into --only-binary :all: --require-hashes --requirement "$tree/requirements/run.txt"
# By name: a path would be written down, and it is another one each time.
into --no-index --find-links "$work/wheels" ibgateway-client gateway-broker
pip --python "$prefix/bin/python" check
"$prefix/bin/python" -m compileall -q --invalidation-mode unchecked-hash "$prefix/lib" || {
    echo "some files could not be compiled; they are compiled at each start instead" >&2
}
