#!/bin/sh
# Makes the Python environment of the client tests in the folder $1, unless it is there: sh make_venv.sh FOLDER
set -e
here=$(cd "$(dirname "$0")" && pwd)
if cmp -s "$here/requirements.txt" "$1/made_from.txt"; then
    exit 0
fi
python3 -m venv "$1"
"$1/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
cp "$here/requirements.txt" "$1/made_from.txt"
